from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from stable_async.datasets import ExportFormat, Selection, export_job
from stable_async.datasets.card import with_edits
from stable_async.datasets.records import Record, shards
from stable_async.errors import ConfigurationError
from stable_async.jobs import JobError, JobLockedError
from stable_async.jobs.lock import locked
from stable_async.jobs.recovery import open_ledger
from stable_async.jobs.row import ImageFacts
from stable_async.jobs.storage.folder import FolderStore
from tests.job_folder import JobFolder, png
from tests.needs import small_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMATS: list[ExportFormat] = ["imagefolder", "webdataset", "parquet"]
each_format = pytest.mark.parametrize("kind", FORMATS)

Rows = list[tuple[bytes, dict[str, Any]]]


def read_imagefolder(target: Path) -> Rows:
    lines = (target / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [((target / row.pop("file_name")).read_bytes(), row) for row in rows]


def read_webdataset(target: Path) -> Rows:
    rows = []
    for path in sorted(target.glob("*.tar")):
        data: dict[str, bytes] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data[member.name] = file.read()
        for key in dict.fromkeys(name.partition(".")[0] for name in data):
            row = json.loads(data[f"{key}.json"])
            assert data[f"{key}.txt"].decode() == (row["text"] or "")
            (media,) = (
                name
                for name in data
                if name.startswith(f"{key}.") and name.endswith((".png", ".jpg"))
            )
            rows.append((data[media], row))
    return rows


def read_parquet(target: Path) -> Rows:
    rows: Rows = []
    for path in sorted(target.glob("data/train-*.parquet")):
        table = parquet.read_table(path).to_pylist()
        rows += [(row.pop("image")["bytes"], row) for row in table]
    return rows


READERS: dict[ExportFormat, Callable[[Path], Rows]] = {
    "imagefolder": read_imagefolder,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
}


def files(target: Path) -> dict[str, tuple[int, bytes]]:
    """Return inode and content of all files that make up a data set."""
    return {
        str(path.relative_to(target)): (path.stat().st_ino, path.read_bytes())
        for path in target.rglob("*")
        if path.is_file() and ".export" not in path.parts and "_stats" not in path.name
    }


def contents(target: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files(target).items() if name != "README.md"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    with JobFolder(tmp_path / "job") as job:
        for number in range(25):
            job.add(f"prompt {number}", metadata={"Category": "Abstract"} if number % 2 else None)
    return job.folder


@each_format
def test_every_image_is_exported_once_in_order_with_its_row(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    target = tmp_path / "set"
    summary = export_job(job, target, kind)
    rows = READERS[kind](target)
    told = [json.loads(line) for line in (job / "metadata.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for _, row in rows) == sorted(row["id"] for row in told)
    by_id = {row["id"]: row for row in told}
    for data, row in rows:
        expected = by_id[row["id"]]
        assert data == (job / expected["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert {**row, "Category": row["Category"]} == {
            **{key: value for key, value in expected.items() if key != "file_name"},
            "Category": expected.get("Category"),
        }
    assert summary.media == 25
    assert summary.bytes == sum(len(data) for data, _ in rows)


@each_format
def test_filtered_images_are_left_out_unless_asked_for(tmp_path: Path, kind: ExportFormat) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("good")
        job.add("bad", filtered=True)
    summary = export_job(job.folder, tmp_path / "set", kind)
    assert (summary.media, summary.filtered) == (1, 1)
    assert [row["text"] for _, row in READERS[kind](tmp_path / "set")] == ["good"]
    everything = export_job(
        job.folder, tmp_path / "set", kind, selection=Selection(include_filtered=True)
    )
    assert (everything.media, everything.filtered) == (2, 0)
    finish = {row["text"]: row["finish_reason"] for _, row in READERS[kind](tmp_path / "set")}
    assert finish == {"good": "SUCCESS", "bad": "CONTENT_FILTERED"}


@each_format
def test_damaged_images_are_left_out_and_named_until_they_are_whole_again(
    tmp_path: Path, kind: ExportFormat
) -> None:
    target = tmp_path / "set"
    with JobFolder(tmp_path / "job") as job:
        names = [job.add(f"prompt {number}").file_name for number in range(4)]
    missing, changed = job.folder / names[1], job.folder / names[2]
    good = missing.read_bytes(), changed.read_bytes()
    missing.unlink()
    changed.write_bytes(good[1][:-1] + b"!")

    summary = export_job(job.folder, target, kind)
    assert summary.media == 2
    assert summary.damage == [
        ("prompt.2", names[1], "missing"),
        ("prompt.3", names[2], "sha256 differs"),
    ]
    assert "2 images are left out: missing" in (target / "README.md").read_text()
    assert [row["id"] for _, row in READERS[kind](target)] == ["prompt.1", "prompt.4"]

    missing.write_bytes(good[0])
    changed.write_bytes(good[1])
    assert export_job(job.folder, target, kind).media == 4
    assert [row["id"] for _, row in READERS[kind](target)] == [f"prompt.{n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "images/../../secret.png"])
def test_a_name_that_leads_out_of_the_job_is_never_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    with JobFolder(tmp_path / "job") as job:
        job.add("good")
        job.add("bad", data=png(1), file_name=name)
    summary = export_job(job.folder, tmp_path / "set", "imagefolder")
    assert [what for _, _, what in summary.damage] == ["missing"]


def test_the_images_of_a_job_may_be_on_another_disk(job: Path, tmp_path: Path) -> None:
    """A digest shows that they are those of the job, wherever the link leads."""
    (job / "images").rename(tmp_path / "disk")
    (job / "images").symlink_to(tmp_path / "disk")
    summary = export_job(job, tmp_path / "set", "imagefolder")
    assert summary.media
    assert not summary.damaged


@each_format
def test_exported_again_only_shards_that_change_are_written(
    tmp_path: Path, kind: ExportFormat
) -> None:
    target = tmp_path / "set"
    with JobFolder(tmp_path / "job") as job:
        for number in range(7):
            job.add(f"prompt {number}")
        size = 3 * len(png(1)) + 2
        first = export_job(job.folder, target, kind, shard_size=size)
        before = files(target)
        again = export_job(job.folder, target, kind, shard_size=size)
        assert again.kept == first.shards
        job.add("one more")
        more = export_job(job.folder, target, kind, shard_size=size)
        after = files(target)
    assert len(READERS[kind](target)) == more.media == 8
    if kind == "imagefolder":
        kept = [name for name in before if name.endswith(".png")]
    else:
        assert (first.shards, more.kept) == (3, 2)
        kept = sorted(name for name in before if name != "README.md")[:2]
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


@each_format
def test_shards_that_are_not_needed_any_more_are_removed(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    target = tmp_path / "set"
    export_job(job, target, kind, shard_size=300)
    summary = export_job(job, target, kind, shard_size=1_000_000)
    assert summary.shards == 1
    assert len(READERS[kind](target)) == 25


@each_format
def test_an_export_that_stopped_at_another_shard_size_leaves_no_shard_behind(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    whole, target = tmp_path / "whole", tmp_path / "set"
    export_job(job, whole, kind)

    def stop(done: int, total: int) -> None:
        if done == 13:
            raise KeyboardInterrupt

    export_job(job, target, kind, shard_size=300)
    with pytest.raises(KeyboardInterrupt):
        export_job(job, target, kind, shard_size=400, on_progress=stop)
    export_job(job, target, kind)
    assert contents(target) == contents(whole)
    assert len([*target.rglob("*0*.json")]) == 1


def test_a_shard_folder_that_is_gone_stops_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stable_async.datasets.media_folder.MediaFolder.records_per_shard", 2)
    target = tmp_path / "set"
    with JobFolder(tmp_path / "job") as job:
        for number in range(4):
            job.add(f"prompt {number}", filtered=number > 1)
    export_job(job.folder, target, "imagefolder", selection=Selection(include_filtered=True))
    shutil.rmtree(target / "images" / "00001")
    assert export_job(job.folder, target, "imagefolder").shards == 1
    assert [path.name for path in (target / "images").iterdir()] == ["00000"]


def test_an_image_folder_loses_an_image_that_was_damaged_since(job: Path, tmp_path: Path) -> None:
    export_job(job, tmp_path / "set", "imagefolder")
    path = next((job / "images").rglob("*1.png"))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    summary = export_job(job, tmp_path / "set", "imagefolder")
    assert (summary.kept, summary.media, summary.damaged) == (0, 24, 1)
    assert len(read_imagefolder(tmp_path / "set")) == 24


def test_all_parquet_files_have_the_same_columns_after_one_has_changed(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("no number")
        job.add("whole", metadata={"n": 1})
        export_job(job.folder, tmp_path / "set", "parquet", shard_size=1)
        job.add("fraction", metadata={"n": 0.5})
        export_job(job.folder, tmp_path / "set", "parquet", shard_size=1)
    schemas = [parquet.read_schema(path) for path in (tmp_path / "set").rglob("*.parquet")]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0]) for schema in schemas)


def test_an_image_that_was_replaced_leaves_the_data_set(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("old")
        job.add("other")
        export_job(job.folder, tmp_path / "set", "imagefolder")
        job.replace(1)
        job.add("new", identity="prompt.1")
    export_job(job.folder, tmp_path / "set", "imagefolder")
    assert [row["text"] for _, row in read_imagefolder(tmp_path / "set")] == ["other", "new"]
    assert len(list((tmp_path / "set" / "images").rglob("*.png"))) == 2


@each_format
@pytest.mark.parametrize("at", [1, 8, 24])
def test_an_export_that_stops_anywhere_leaves_nothing_torn_and_goes_on(
    job: Path, tmp_path: Path, kind: ExportFormat, at: int
) -> None:
    whole, target = tmp_path / "whole", tmp_path / "set"
    export_job(job, whole, kind, shard_size=700)

    def stop(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_job(job, target, kind, shard_size=700, on_progress=stop)
    for name, data in contents(target).items():
        assert contents(whole)[name] == data
    export_job(job, target, kind, shard_size=700)
    assert contents(target) == contents(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from stable_async.datasets import export_job

def stop(done, total):
    if done == 13:
        os.kill(os.getpid(), signal.SIGKILL)

export_job(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], shard_size=700, on_progress=stop)
"""


@each_format
def test_a_killed_export_leaves_nothing_torn_and_goes_on(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    whole, target = tmp_path / "whole", tmp_path / "set"
    export_job(job, whole, kind, shard_size=700)
    killed = subprocess.run([sys.executable, "-c", KILLED, job, target, kind], check=False)
    assert killed.returncode == -9
    summary = export_job(job, target, kind, shard_size=700)
    assert contents(target) == contents(whole)
    assert summary.media == 25


@each_format
def test_an_export_to_a_disk_that_fills_up_tears_nothing_and_goes_on(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    whole = tmp_path / "whole"
    export_job(job, whole, kind, shard_size=700)
    with small_disk(tmp_path / "disk", 1) as disk:
        target = disk / "set"
        filler = disk / "filler"
        left = 16 * 1024
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))
        with pytest.raises(OSError, match=r"No space left on device: '.*/set"):
            export_job(job, target, kind, shard_size=700)
        written = contents(target)
        assert written == {name: contents(whole)[name] for name in written}
        filler.unlink()
        assert export_job(job, target, kind, shard_size=700).media == 25
        assert contents(target) == contents(whole)


def test_a_parquet_file_that_could_not_be_written_does_not_come_back(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.writev, count(1)

    def fail_once(descriptor: int, pieces: list[memoryview]) -> int:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, pieces)

    monkeypatch.setattr(os, "writev", fail_once)
    with pytest.raises(OSError, match="No space"):
        export_job(job, tmp_path / "set", "parquet")
    gc.collect()  # pyarrow ends a file when its writer is collected
    assert list((tmp_path / "set" / "data").iterdir()) == []


def test_tar_files_of_the_same_job_are_the_same_to_the_byte(job: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_job(job, tmp_path / name, "webdataset")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_every_tar_file_has_its_statistics(job: Path, tmp_path: Path) -> None:
    summary = export_job(job, tmp_path / "set", "webdataset", shard_size=1_000)
    counts = []
    for path in sorted((tmp_path / "set").glob("*.tar")):
        told = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert told["successes"] == told["count"] == told["status_dict"]["success"]
        assert told["failed_to_download"] == told["failed_to_resize"] == 0
        assert told["bytes"] == path.stat().st_size
        counts.append(told["count"])
    assert sum(counts) == 25
    assert len(counts) == summary.shards > 1


def test_an_image_folder_takes_no_room_where_files_can_be_linked(job: Path, tmp_path: Path) -> None:
    export_job(job, tmp_path / "set", "imagefolder")
    inodes = {path.stat().st_ino for path in (job / "images").rglob("*.png")}
    assert {path.stat().st_ino for path in (tmp_path / "set").rglob("*.png")} == inodes


def test_an_image_folder_is_copied_where_files_cannot_be_linked(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", refuse)
    export_job(job, tmp_path / "set", "imagefolder")
    assert len(read_imagefolder(tmp_path / "set")) == 25


def test_a_row_group_is_small_enough_to_stream(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for number in range(5):
            job.add(data=png(number, padding=15_000_000))
    export_job(job.folder, tmp_path / "set", "parquet")
    with parquet.ParquetFile(tmp_path / "set" / "data" / "train-00000.parquet") as file:
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 2]


@each_format
def test_columns_have_one_type_and_names_that_datasets_understands(
    tmp_path: Path, kind: ExportFormat
) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("a", parameters={"image": "in.png"}, metadata={"n": 1, "mixed": "x", "big": 2**70})
        job.add("b", metadata={"n": 1.5, "mixed": 3, "deep": {"a": [1]}, "my_file_name": "y.png"})
        job.add("c", metadata={"ok": True, "empty": None, "café|": "<b>"})
    export_job(job.folder, tmp_path / "set", kind)
    rows = {row["text"]: row for _, row in READERS[kind](tmp_path / "set")}
    assert rows["a"]["image_source"] == "in.png"
    assert rows["b"]["my_file_name_source"] == "y.png"
    assert [rows[text]["n"] for text in "abc"] == [1.0, 1.5, None]
    assert [rows[text]["mixed"] for text in "abc"] == ["x", "3", None]
    assert rows["a"]["big"] == str(2**70)
    assert json.loads(rows["b"]["deep"]) == {"a": [1]}
    assert rows["c"]["ok"] is True
    assert rows["c"]["empty"] is None
    assert rows["c"]["café|"] == "<b>"
    assert len({tuple(row) for row in rows.values()}) == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.text(min_size=1, max_size=12).filter(lambda name: "\0" not in name)


@given(rows=st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=4))
def test_whatever_rows_say_fits_the_columns(
    rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("law")
    with JobFolder(folder / "job") as job:
        for row in rows:
            job.add(metadata={f"x{name}": value for name, value in row.items()})
    export_job(job.folder, folder / "set", "parquet")
    assert len(read_parquet(folder / "set")) == len(rows)
    head = (folder / "set" / "README.md").read_text().split("---\n")[1]
    features = yaml.safe_load(head)["dataset_info"]["features"]
    schema = parquet.read_schema(folder / "set" / "data" / "train-00000.parquet")
    assert [feature["name"] for feature in features] == schema.names


def record(size: int) -> Record:
    image = ImageFacts(1, "", "image/png", size, "", 1, 1, 1, None, None, None, None, None)
    return Record(1, 0, "1", ".png", image, {})


@given(sizes=st.lists(st.integers(0, 100)), limit=st.integers(1, 150), count=st.integers(1, 5))
def test_shards_keep_all_records_in_order_and_their_limits(
    sizes: list[int], limit: int, count: int
) -> None:
    records = [record(size) for size in sizes]
    made = list(shards(records, limit, count))
    assert [one for shard in made for one in shard.records] == records
    assert [shard.number for shard in made] == list(range(len(made)))
    for shard in made:
        total = sum(one.image.bytes for one in shard.records)
        assert len(shard.records) <= count
        assert total <= limit or len(shard.records) == 1
    for shard, following in pairwise(made):
        total = sum(one.image.bytes for one in shard.records)
        assert len(shard.records) == count or total + following.records[0].image.bytes > limit


def test_the_card_tells_counts_parameters_costs_and_models(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("one", parameters={"aspect_ratio": "16:9"})
        job.add("two", parameters={"aspect_ratio": "1:1"})
        job.add("three", service="sd3", parameters={"model": "sd3.5-large"})
    export_job(job.folder, tmp_path / "set", "parquet")
    _, head, body = (tmp_path / "set" / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["size_categories"] == ["n<1K"]
    (split,) = facts["dataset_info"]["splits"]
    assert split["num_examples"] == 3
    assert "3 images" in body
    assert "9.00 credits (0.09 US dollars)" in body
    assert "| core |  | 2 | 6.00 |" in body
    assert "| sd3 | sd3.5-large | 1 | 3.00 |" in body
    assert "| `aspect_ratio` | string | 2 | 16:9 (1), 1:1 (1) |" in body


def test_texts_that_look_like_times_are_told_in_the_card_of_an_image_folder(
    tmp_path: Path,
) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("2024 at last", identity="2024-01-04", metadata={"day": "2024-01-04T10+02"})
    for kind in FORMATS:
        export_job(job.folder, tmp_path / kind, kind)
        card = (tmp_path / kind / "README.md").read_text()
        assert ("`day`, `id`: some values look like times" in card) == (kind == "imagefolder")


def test_what_was_changed_in_a_card_stays_when_it_is_written_anew(tmp_path: Path) -> None:
    target = tmp_path / "set"
    path = target / "README.md"
    with JobFolder(tmp_path / "job") as job:
        job.add()
        export_job(job.folder, target, "parquet")
        written = path.read_text()
        text = written.replace("---\n", "---\nlicense: mit\nlanguage:\n- en\n", 1)
        text = text.replace("pretty_name:", "# ours\npretty_name: Lights # not")
        text = text.partition("## Licence")[0] + "## Thanks\n\nTo all. "
        path.write_bytes(text.replace("\n", "\r\n").encode() + b"\xe9")
        job.add()
        export_job(job.folder, target, "parquet")
    _, head, body = path.read_text(errors="surrogateescape").split("---\n", 2)
    facts = yaml.safe_load(head)
    assert (facts["license"], facts["language"], facts["pretty_name"]) == ("mit", ["en"], "Lights")
    assert facts["dataset_info"]["splits"][0]["num_examples"] == 2
    assert "# ours\n" in head
    assert "2 images" in body
    assert "1 image," not in body
    assert body.endswith("## Thanks\n\nTo all. \udce9")
    assert "## Licence" not in body


def test_a_card_that_nobody_changed_is_written_as_if_it_were_new(job: Path, tmp_path: Path) -> None:
    export_job(job, tmp_path / "set", "parquet")
    card = (tmp_path / "set" / "README.md").read_text()
    assert with_edits(card, card) == card
    assert with_edits(card, "\n") == card


@pytest.mark.parametrize("text", ["Mine.\n", "---\nlicense: mit\n---\nMine.\n"])
def test_a_card_of_ones_own_keeps_its_text_and_gets_the_head(
    job: Path, tmp_path: Path, text: str
) -> None:
    export_job(job, tmp_path / "set", "parquet")
    (tmp_path / "set" / "README.md").write_text(text)
    export_job(job, tmp_path / "set", "parquet")
    _, head, body = (tmp_path / "set" / "README.md").read_text().split("---\n")
    facts = yaml.safe_load(head)
    assert facts["dataset_info"]["splits"][0]["num_examples"] == 25
    assert facts.get("license") == ("mit" if "license" in text else None)
    assert body == "Mine.\n"


def test_a_card_survives_whatever_prompts_say(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add('---\n| <script>alert("x")</script> `', metadata={"a: |\n": "|\n---\n<img>"})
    export_job(job.folder, tmp_path / "set", "parquet")
    _, head, body = (tmp_path / "set" / "README.md").read_text().split("---\n", 2)
    names = [feature["name"] for feature in yaml.safe_load(head)["dataset_info"]["features"]]
    assert "a: |\n" in names
    assert "<script" not in body
    assert "<img" not in body
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)


def test_a_folder_that_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is not a job"):
        export_job(tmp_path, tmp_path / "set", "parquet")
    assert not (tmp_path / "set").exists()


def test_a_job_without_images_is_refused(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.fail("x", "400 bad_request", "no")
    with pytest.raises(JobError, match="has nothing to export"):
        export_job(job.folder, tmp_path / "set", "parquet")


def test_a_corrupt_ledger_is_refused(job: Path, tmp_path: Path) -> None:
    (job / "job.sqlite").write_bytes(b"x" * 10_000)
    with pytest.raises(JobError, match=r"job\.sqlite: .*; the next run of the job repairs it"):
        export_job(job, tmp_path / "set", "parquet")


def test_a_ledger_that_cannot_be_opened_is_not_called_corrupt(job: Path, tmp_path: Path) -> None:
    (job / "job.sqlite-wal").mkdir()
    with pytest.raises(JobError, match=r"job\.sqlite: unable to open database file$"):
        export_job(job, tmp_path / "set", "parquet")


def test_a_job_that_was_killed_is_exported_from_where_nothing_can_be_written(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        with JobFolder(tmp_path / "job") as job:
            for number in range(3):
                job.add(f"prompt {number}")
            shutil.copytree(job.folder, disk / "job")
        assert (disk / "job" / "job.sqlite-wal").stat().st_size
        (disk / "job" / "job.sqlite-shm").unlink()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert export_job(disk / "job", tmp_path / "set", "imagefolder").media == 3
    assert len(read_imagefolder(tmp_path / "set")) == 3


def test_an_export_into_the_job_itself_is_refused(job: Path) -> None:
    for target in (job, job / "images", job / "new"):
        with pytest.raises(JobError, match="own folder"):
            export_job(job, target, "imagefolder")


def test_a_folder_with_other_things_is_refused_and_left_alone(job: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(JobError, match="not empty"):
        export_job(job, tmp_path / "full", "parquet")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_an_export_of_another_job_or_format_is_refused(job: Path, tmp_path: Path) -> None:
    export_job(job, tmp_path / "set", "webdataset")
    before = files(tmp_path / "set")
    with JobFolder(tmp_path / "other") as other:
        other.add(data=png(99))
    with pytest.raises(JobError, match="another job, in another format"):
        export_job(other.folder, tmp_path / "set", "webdataset")
    with pytest.raises(JobError, match="another job, in another format"):
        export_job(job, tmp_path / "set", "parquet")
    assert files(tmp_path / "set") == before


@pytest.mark.parametrize("request_ids", [True, False])
def test_a_data_set_is_still_of_its_job_when_the_ledger_was_made_anew(
    tmp_path: Path, request_ids: bool
) -> None:
    with JobFolder(tmp_path / "job") as job:
        names = [job.add(f"prompt {number}").file_name for number in range(3)]
        job.replace(1)
        export_job(job.folder, tmp_path / "set", "webdataset")
        job.replace(2)
    for name in names[:2]:
        (job.folder / name).unlink()
    (job.folder / "job.sqlite").unlink()
    if not request_ids:
        (job.folder / "metadata.jsonl").write_text("")
    ledger, _ = open_ledger(job.folder, FolderStore(job.folder))
    ledger.close()
    assert export_job(job.folder, tmp_path / "set", "webdataset").media == 1


def test_two_exports_to_one_folder_at_a_time_are_refused(job: Path, tmp_path: Path) -> None:
    export_job(job, tmp_path / "set", "parquet")
    lock = tmp_path / "set" / ".export" / ".lock"
    with (
        locked(lock.parent, "exports to this folder"),
        pytest.raises(JobLockedError, match=f"exports to this folder: process {os.getpid()} on"),
    ):
        export_job(job, tmp_path / "set", "parquet")
    assert lock.read_text().strip() == "", "nobody is named"


def test_a_shard_size_of_nothing_is_refused(job: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="shard_size"):
        export_job(job, tmp_path / "set", "parquet", shard_size=0)
