from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.cli.app import run
from stable_async.jobs import JobError
from stable_async.jobs.recovery import LEDGER_NAME
from stable_async.report import MOST_ROWS, write_report
from stable_async.report.timeline import PAUSE, POINTS, runs
from tests import needs
from tests.job_folder import JobFolder, broken_png, png

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "%%STYLE%% %%SCRIPT%%",
    "\u2028\u2029\\u003c/script>",
    "javascript:alert(1)",
]


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        name = attributes.get("id") or tag
        self.texts[name] = self.texts.get(name, "") + data

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.texts["facts"])
        return facts

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for values in json.loads(self.texts["rows"]):
            row = dict(zip(self.facts["columns"], values, strict=True))
            for name in ("text", "more"):
                row[name] = rows[-1][name] if row[name] == 0 else row[name]
            rows.append(row)
        return rows


def report(job: JobFolder, most_rows: int = MOST_ROWS) -> Page:
    path = write_report(job.folder, most_rows=most_rows)
    assert path == job.folder / "report.html"
    return Page(path.read_text("utf-8"))


def test_every_decided_prompt_is_in_the_report_with_its_facts(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        image = job.add("a lighthouse", parameters={"aspect_ratio": "1:1"}, metadata={"n": 1.5})
        job.add("a lighthouse", parameters={"aspect_ratio": "1:1"}, filtered=True)
        job.fail("a canal", "403 content_moderation", "403: flagged")
        page = report(job)
    done, filtered, failed = page.rows()
    assert done["file"] == image.file_name
    assert (done["text"], done["state"], done["seed"]) == ("a lighthouse", "done", 7)
    assert done["more"] == {"aspect_ratio": "1:1", "n": "1.5"}
    assert (filtered["text"], filtered["state"]) == ("a lighthouse", "filtered")
    assert (failed["file"], failed["error"]) == (None, "403: flagged")
    assert page.facts["counts"] | {"done": 1, "filtered": 1, "failed": 1} == page.facts["counts"]
    assert page.facts["failures"] == [["403 content_moderation", 1]]
    assert page.facts["spending"] == [["core", None, 2, 6.0, 0.0]]


def test_whatever_a_prompt_says_stays_text(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        plain = report(job)
        for text in HOSTILE:
            job.add(text, identity=f"id {text}", metadata={text: text})
            job.fail(text, text, text)
        page = report(job)
    tags = [tag for tag, _ in page.elements]
    assert tags == [tag for tag, _ in plain.elements]
    assert [row["text"] for row in page.rows()] == [text for text in HOSTILE for _ in range(2)]
    assert page.rows()[0]["more"] == {HOSTILE[0]: HOSTILE[0]}


@given(text=st.text())
def test_any_text_comes_through_unchanged(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with JobFolder(tmp_path_factory.mktemp("law") / "job") as job:
        job.add(text)
        [row] = report(job).rows()
    assert row["text"] == text


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "images/../../secret.png", "file:///etc/passwd", "..\\x.png"],
)
def test_an_image_is_never_shown_from_outside_the_job(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    with JobFolder(tmp_path / "job") as job:
        job.add(file_name=name)
        [row] = report(job).rows()
    assert row["file"] is row["thumbnail"] is None


def test_links_survive_strange_names(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add(file_name='images/0000/a "b"?#%<é>.png')
        [row] = report(job).rows()
    assert row["file"] == "images/0000/a%20%22b%22%3F%23%25%3C%C3%A9%3E.png"


@pytest.mark.parametrize("name", [LEDGER_NAME, "images/0000/000001-x.png", "no-suffix"])
def test_a_report_replaces_nothing_but_reports(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add(file_name="images/0000/000001-x.png")
    path = job.folder / name
    before = path.read_bytes() if path.exists() else None
    assert run(["report", str(job.folder), "--to", str(path)]) == 2
    assert "allowed: a name that ends in .html" in " ".join(capsys.readouterr().err.split())
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_folder_whose_name_is_no_utf8_has_a_report(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "j\udcff") as job:
        job.add()
        assert report(job).facts["title"] == "j\udcff"
        page = write_report(job.folder, to=tmp_path / "elsewhere.html").read_text()
        assert '"j%FF/images/' in page


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("a lighthouse")
        page = report(job)
    for _, attributes in page.elements:
        assert not {"src", "href", "action", "srcset", "data", "style"} & attributes.keys()
    text = (job.folder / "report.html").read_text("utf-8")
    assert set(re.findall(r"\w+://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}
    (policy,) = (
        attributes["content"]
        for _, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_thumbnails_stand_in_the_page_where_pillow_is(tmp_path: Path) -> None:
    needs.module("PIL")
    with JobFolder(tmp_path / "job") as job:
        job.add("good")
        job.add("not a picture", data=b"no")
        job.add("damaged", data=broken_png())
        good, *bad = report(job).rows()
    assert good["thumbnail"].startswith("data:image/webp;base64,")
    assert [row["thumbnail"] for row in bad] == [None, None]


def test_without_pillow_there_are_no_thumbnails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with JobFolder(tmp_path / "job") as job:
        image = job.add("good")
        [row] = report(job).rows()
    assert (row["file"], row["thumbnail"]) == (image.file_name, None)


def test_a_large_job_lists_its_first_prompts_and_counts_all(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for number in range(7):
            job.add(f"prompt {number}")
        page = report(job, most_rows=4)
    assert [row["text"] for row in page.rows()] == [f"prompt {number}" for number in range(4)]
    assert page.facts["counts"]["done"] == 7


def change(job: JobFolder, statement: str) -> None:
    with closing(sqlite3.connect(job.folder / LEDGER_NAME)) as db, db:
        db.execute(statement)


def test_figures_are_of_every_image_also_when_the_prompt_file_has_shrunk(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for number in range(4):
            job.add(f"prompt {number}", filtered=number == 1)
        job.fail("a canal", "403 content_moderation", "403: flagged")
        job.fail("never made", "", "")
        change(job, "UPDATE rows SET state = 'waiting' WHERE position = 6")
        change(job, "UPDATE rows SET listed = 0 WHERE position > 1")
        page = report(job)
    assert [row["state"] for row in page.rows()] == ["done", "filtered", "done", "done", "failed"]
    assert page.facts["counts"] == {
        "done": 3, "filtered": 1, "failed": 1, "in_doubt": 0, "left": 0, "gone": 4, "replaced": 0,
    }  # fmt: skip
    assert page.facts["failures"] == [["403 content_moderation", 1]]
    assert page.facts["spending"] == [["core", None, 4, 12.0, 0.0]]
    assert (page.facts["credits"], page.facts["requests"]) == (12, 4)


def test_what_was_replaced_or_brought_nothing_is_in_the_credits_alone(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("old")
        job.replace(1)
        job.add("new")
        job.fail("a canal", "timeout", "timeout")
        job.fail("replaced", "timeout", "timeout")
        job.replace(4)
        change(job, "UPDATE charges SET state = 'in doubt', price = 5 WHERE position = 3")
        page = report(job)
    assert [row["text"] for row in page.rows()] == ["new", "a canal"]
    assert page.facts["counts"] == {
        "done": 1, "filtered": 0, "failed": 1, "in_doubt": 0, "left": 0, "gone": 0, "replaced": 1,
    }  # fmt: skip
    assert page.facts["failures"] == [["timeout", 1]]
    assert page.facts["spending"] == [["core", None, 1, 6.0, 5.0]]
    assert (page.facts["credits"], page.facts["credits_in_doubt"]) == (6, 5)


def test_a_job_that_has_done_nothing_has_a_report(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        page = report(job)
    assert page.rows() == []
    assert page.facts["runs"] == []


def test_a_folder_that_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is not a job"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


WINDOW = 10
departures = st.dictionaries(
    st.integers(0, 400), st.tuples(st.integers(1, 20), st.integers(0, 3)), max_size=30
)


@given(by_second=departures)
def test_the_timeline_shows_the_fullest_window_and_every_429(
    by_second: dict[int, tuple[int, int]],
) -> None:
    made = runs([(second, *by_second[second]) for second in sorted(by_second)], WINDOW)
    fullest = max(
        (
            sum(by_second.get(second - back, (0, 0))[0] for back in range(WINDOW))
            for second in by_second
        ),
        default=0,
    )
    assert max((max(run.points) for run in made), default=0) == fullest
    assert sum(sum(run.limited) for run in made) == sum(
        limited for _, limited in by_second.values()
    )
    assert {run.start for run in made} <= by_second.keys()


def test_a_long_pause_divides_runs() -> None:
    assert [run.start for run in runs([(0, 1, 0), (PAUSE, 1, 0)], WINDOW)] == [0]
    assert [run.start for run in runs([(0, 1, 0), (PAUSE + 1, 1, 0)], WINDOW)] == [0, PAUSE + 1]


def test_a_long_job_has_no_more_points_than_a_screen() -> None:
    made = runs([(second, 15, 0) for second in range(100_000)], WINDOW)
    assert sum(len(run.points) for run in made) <= POINTS + 1


def test_parts_of_a_job_have_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    for part in (1, 2):
        words = ["run", "p.txt", "--out", f"part {part}", "--shard", f"{part}/2", "--sandbox"]
        assert run(words) == 0
    assert run(["report", "part 1", "part 2"]) == 2
    assert run(["report", "part 1", "part 2", "--to", "whole.html"]) == 0
    page = Page((tmp_path / "whole.html").read_text())
    assert page.facts["counts"]["done"] == 3
    for row in page.rows():
        assert (tmp_path / unquote(row["file"])).is_file()
    assert run(["status", "part 1", "part 2"]) == 0
    assert run(["report"]) == 2
