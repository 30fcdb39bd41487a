"""The commands as a user meets them: statuses, output, and one line for what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command
    from tests.jobs.shop import Shop

SUMMARY = {
    "ending",
    "total",
    "done",
    "skipped",
    "failed",
    "filtered",
    "credits",
    "requests",
    "rate_limited",
    "again",
    "in_doubt",
    "spent",
    "credits_in_doubt",
    "missing",
    "seconds",
    "peak_in_flight",
}


async def test_run_prints_one_summary_object(command: Command, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a fox\na lighthouse\n")
    ended = await command("run", "p.txt", "--out", "job", "--base-url", shop.url, "--json")
    assert ended.status == 0
    assert ended.errors == "2 rows to make: 6 credits (0.06 US dollars), at least 0 s\n"
    summary = json.loads(ended.output)
    assert set(summary) == SUMMARY
    assert (summary["total"], summary["done"], summary["credits"]) == (2, 2, 6)
    assert len(list((tmp_path / "job" / "images").glob("*/*.png"))) == 2


async def test_status_3_and_the_rows_that_failed(
    command: Command, shop: Shop, tmp_path: Path
) -> None:
    shop.script = {"bad": [400], "blurred": ["filtered"]}
    (tmp_path / "p.txt").write_text("good\nbad\nblurred\n")
    ended = await command("run", "p.txt", "--out", "job", "--base-url", shop.url)
    assert ended.status == 3
    assert "1 image made, 1 failed, 1 filtered" in ended.output
    assert "row 2 (" in ended.errors
    assert "400 bad_request: prompt: is not nice" in ended.errors
    assert "row 3 (" in ended.errors


async def test_status_4_when_the_budget_is_spent(
    command: Command, shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    ended = await command("run", "p.txt", "--out", "job", "--base-url", shop.url, "--budget", "6")
    assert ended.status == 4
    assert (
        "the budget is reached: 1 row left, for 3 credits; --budget 9 is enough for all"
        in ended.output
    )
    assert sum(shop.sold.values()) == 2


@pytest.mark.parametrize("status", [401, 402])
async def test_status_1_and_one_line_when_the_account_is_to_blame(
    command: Command, shop: Shop, tmp_path: Path, status: int
) -> None:
    shop.script = {"a": [status]}
    ended = await command(
        "run", "-", "--out", "job", "--base-url", shop.url, stdin='{"prompt":"a"}'
    )
    assert ended.status == 1
    assert ended.errors.splitlines()[-1].startswith(f"stable-async: {status} ")
    assert ended.errors.count("\n") == 2


async def test_status_1_and_one_line_when_the_server_is_not_there(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a\n" * 20)
    ended = await command("run", "p.txt", "--out", "job", "--base-url", "http://127.0.0.1:9")
    assert ended.status == 1
    _, line = ended.errors.splitlines()
    assert line.startswith("stable-async: cannot connect to 127.0.0.1:9")


async def test_status_1_without_a_key(command: Command, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    ended = await command("run", "p.txt", "--out", "job", key=None)
    assert ended.status == 1
    assert "STABILITY_API_KEY" in ended.errors
    assert not (tmp_path / "job").exists()


async def test_wrong_rows_are_listed_and_nothing_is_sent(command: Command, shop: Shop) -> None:
    rows = '{"prompt": "a", "seed": -1}\nx\n' + '{"prompt": ""}\n' * 30
    ended = await command("run", "-", "--out", "job", "--base-url", shop.url, stdin=rows)
    assert ended.status == 2
    lines = ended.errors.splitlines()
    assert lines[0] == "stable-async: standard input: 32 problems"
    assert "row 1: seed: given -1; allowed: a whole number from 0 to 4294967294" in lines[1]
    assert (
        lines[-1]
        .strip()
        .startswith("rows 3, 4, 5, 6, 7 and 25 more: prompt: required, not given; allowed: text")
    )
    assert not shop.asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "--out"),
        (["run", "-"], "--out"),
        (["run", "none.jsonl", "--out", "x"], "none.jsonl: no such file"),
        (["run", __file__, "--out", "x"], "unknown format"),
        (["run", "-", "--out", "x", "--service", "oil"], "--service is 'oil'; allowed: core, "),
        (["run", "nowhere", "--out", "x"], "nowhere: no such file"),
        (
            ["run", "a.jpg", "b.jpg", "c.jpg", "--out", "x"],
            "'b.jpg' and 1 more: not expected; quote",
        ),
        (["run", "-", "--out", "x", "--seed", "5"], "For all rows: --set seed=VALUE"),
        (["run", "-", "--out", "x", "--set", "seed"], "--set is 'seed'; allowed: KEY=VALUE"),
        (["run", "-", "--out", "x", "--map", "seed"], "--map is 'seed'; allowed: COLUMN=FIELD"),
        (["run", "-", "--out", "x", "--shard", "0/3"], "--shard is 0/3; allowed: I/N"),
        (
            ["run", "-", "--out", "x", "--price", "-1"],
            "--price is -1.0; allowed: a number, 0 or more",
        ),
        (
            ["run", "-", "--out", "x", "--no-check", "--replace-changed"],
            "--replace-changed is True; allowed: only with the check of the prompt file",
        ),
        (["run", "-", "--out", "x", "--vary", "seed=1", "--vary", "seed=2"], "given twice"),
        (["estimate", "-", "--map", "a=seed", "--map", "a=prompt"], "--map a is given twice"),
        (
            ["run", "-", "--out", "x", "--vary", "seed=1,2", "--set", "seed=3"],
            "both set and varied",
        ),
        (["run", "-", "--out", "x", "--limit", "0"], "--limit is 0"),
        (["run", "-", "--out", "x", "--no-check", "--sample", "2"], "--sample is 2; allowed: only"),
        (["run", "-", "--out", "x", "--limit", "1.5"], "--limit: allowed: a whole number"),
        (["generate", "core", "a fox", "-o", "x.png", "--seed", "7.9"], "not 7.9"),
        (["run", "-", "--out", "x", "--base-url", "foo"], "--base-url: base URL is 'foo'; allowed"),
        (["balance", "--shared-quota", "ftp://x"], "--shared-quota: the URL of the shared quota"),
        (["run", "-", "--out", "x", "--passes", "0"], "--passes is 0"),
        (
            ["run", "-", "--out", "x", "--budget", "-1"],
            "--budget is -1.0; allowed: a number, 0 or more\n",
        ),
        (["run", "-", "--out", "x", "--max-in-flight", "many"], "many"),
        (["run", "-", "--out", "x", "--bogus"], "--bogus"),
        (["generate", "core", "-o", "x.png"], "--prompt"),
        (["generate", "core", "a fox", "-o", "x.gif"], ".webp"),
        (["generate", "core", "a fox", "-o", "x.png", "--seed", "-3"], "seed: given -3"),
        (["generate", "erase", "-o", "x.png"], "--image"),
        (["results", "get", "7f", "-o", "x.png", "--wait", "-1"], "--wait is -1.0; allowed: a"),
        (["sandbox", "--latency", "soon"], "--latency is 'soon'; allowed: observed"),
        (["sandbox", "--fail-rate", "2"], "--fail-rate is 2.0; allowed: 0 to 1"),
        (["sandbox", "--allow-host", "a:1"], "--allow-host is 'a:1'"),
        (["status"], "status: DIR is missing"),
        (["report"], "report: DIR is missing"),
        (
            ["export", "x", "--format", "files", "--to", "y", "--split", "train"],
            "--split is 'train'; allowed: NAME=SHARE,...",
        ),
        (["estimate"], "PROMPTS"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("stable-async: ")
    assert captured.err.count("\n") == 1


def test_help_is_there_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["--help"], ["run", "--help"], ["generate", "style-transfer", "--help"]):
        assert run(command) == 0
        assert "Usage: stable-async" in capsys.readouterr().out


def test_estimate_tells_requests_credits_dollars_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"p{n}"} for n in range(300)]
    rows += [{"prompt": f"p{n}", "service": "sd3", "model": "sd3.5-flash"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["estimate", str(path), "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    figures = {"requests": 304, "credits": 910, "dollars": 9.1, "least_seconds": 20.3}
    assert estimate.items() >= figures.items()
    assert run(["estimate", str(path), "--vary", "seed=1,2,3"]) == 0
    output = capsys.readouterr().out
    assert "912 rows to make: 2,730 credits (27.30 US dollars), at least 1 min 01 s\n" in output
    assert "sd3.5-flash" in output


async def test_generate_writes_an_image_of_the_sandbox(command: Command, tmp_path: Path) -> None:
    needs.module("PIL")
    ended = await command(
        "generate", "core", "a red fox", "-o", "fox.webp", "--seed", "7", "--sandbox", key=None
    )
    assert (ended.status, ended.errors) == (0, "")
    assert ended.output == "fox.webp: image/webp, seed 7, 3 credits\n"
    assert (tmp_path / "fox.webp").read_bytes()[8:12] == b"WEBP"


@pytest.mark.parametrize(
    ("service", "prompt", "name"),
    [
        ("core", " ", "fox.png"),
        ("core", "\u200b", "fox.png"),
        ("core", "\u3164 ", "fox.png"),
        ("text-to-audio", "", "fox.mp3"),
    ],
)
def test_generate_buys_nothing_for_a_blank_prompt(
    service: str, prompt: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name
    assert run(["generate", service, prompt, "-o", str(output), "--sandbox"]) == 2
    assert "stable-async: prompt: given blank text; allowed: text" in capsys.readouterr().err
    assert not output.exists()


async def test_run_with_a_sandbox_of_its_own_needs_no_key(command: Command, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a fox"}\n{"prompt": "a sandbox:filtered fox", "service": "sd3"}\n'
    )
    ended = await command("run", "p.jsonl", "--out", "job", "--sandbox", "--json", key=None)
    assert ended.status == 3
    summary = json.loads(ended.output)
    assert (summary["done"], summary["filtered"], summary["credits"]) == (1, 1, 9.5)


async def test_a_row_without_an_id_is_named_once(command: Command, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a fox", "seed": -1}\n')
    ended = await command("run", "p.jsonl", "--out", "job", "--sandbox", "--no-check", key=None)
    assert ended.status == 3
    assert "row 1: seed: given -1" in ended.errors
    assert "(row" not in ended.errors


async def test_ctrl_c_in_a_terminal_ends_with_status_130_and_shows_the_progress(
    shop: Shop, tmp_path: Path
) -> None:
    """A terminal sends the signal to the whole group of processes."""
    (tmp_path / "p.txt").write_text("".join(f"p{n}\n" for n in range(40)))
    shop.script = {f"p{n}": ["slow"] for n in range(40)}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stable_async", "run", "p.txt", "--out", "job"),
            *("--base-url", shop.url, "--max-in-flight", "4", "--no-quota"),
        ],
        cwd=tmp_path,
        env={**os.environ, "STABILITY_API_KEY": "sk-test", "TERM": "xterm", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    await shop.wait_for(4)
    os.killpg(process.pid, signal.SIGINT)
    while "Ctrl-C again aborts" not in (screen := await _read(ours)):
        pass
    shop.opened.set()
    while chunk := await _read(ours):
        screen += chunk
    os.close(ours)
    assert await asyncio.to_thread(process.wait) == 130
    assert "4 of 40" in screen
    assert "4 done, 0 failed, 0 filtered, 0 in flight" in screen
    assert "36 rows left, for 108 credits" in screen
    assert sum(shop.sold.values()) == 4


async def _read(terminal: int) -> str:
    try:
        return (await asyncio.to_thread(os.read, terminal, 65536)).decode()
    except OSError:  # how Linux says that the other side is closed
        return ""


def test_the_package_needs_no_command_line() -> None:
    code = (
        "import sys; import stable_async, stable_async.jobs; "
        "assert not {'cyclopts', 'rich', 'obstore', 'pyarrow', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_its_packages_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['cyclopts'] = None; from stable_async.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        'stable-async: the command line needs: pip install ".[cli]" (in a clone of stable_async)\n'
    )


async def test_a_budget_holds_for_later_runs_until_another_one_is_given(
    command: Command, shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    where = ("--out", "job", "--base-url", shop.url)
    assert (await command("run", "p.txt", *where, "--budget", "3")).status == 4
    for words in (where, ("p.txt", *where)):
        ended = await command("run", *words)
        assert ended.status == 4
        assert "the budget is still 3 credits; another --budget" in ended.errors
    assert shop.sold.total() == 1
    shown = await command("run", *where, "--dry-run", "--json")
    assert json.loads(shown.output)["budget_left"] == 0
    assert (await command("run", *where, "--budget", "6")).status == 4
    assert shop.sold.total() == 2
    ended = await command("run", *where, "--budget", "inf")
    assert ended.status == 0, ended.errors
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    assert (await command("run", *where)).status == 0, "it stays removed"
    assert shop.sold.total() == 4


async def test_a_job_goes_on_as_it_was_begun_and_refuses_other_words(
    command: Command, shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a\nb\n")
    where = ("--out", "job", "--base-url", shop.url)
    ended = await command("run", "p.txt", *where, "--set", "aspect_ratio=16:9", "--budget", "3")
    assert ended.status == 4
    ended = await command("run", "p.txt", *where)
    assert ended.status == 2
    assert "set was aspect_ratio=16:9 and is nothing" in ended.errors
    assert "for 6 credits" in ended.errors
    ended = await command("run", *where, "--budget", "6")
    assert ended.status == 0, ended.errors
    assert {form["aspect_ratio"] for form in shop.forms} == {"16:9"}
    assert shop.sold.total() == 2
    ended = await command("run", *where, "--service", "ultra")
    assert ended.status == 2
    assert "PROMPTS is missing" in ended.errors
    assert "its own options, which differ in --service\n" in ended.errors
    (tmp_path / "stable-async.toml").write_text(
        '[defaults.run]\nservice = "Core"\nset = ["aspect_ratio=16:9"]\nformat = "txt"\n'
    )
    assert (await command("run", *where)).status == 0, "the defaults are the job's own options"
    (tmp_path / "stable-async.toml").unlink()
    ended = await command("run", "--out", "nothing", "--base-url", shop.url)
    assert (ended.status, "name PROMPTS" in ended.errors) == (2, True)


async def test_status_3_for_rows_in_doubt_with_their_price(
    command: Command, shop: Shop, tmp_path: Path
) -> None:
    shop.script = {"a": ["drop"]}
    (tmp_path / "p.txt").write_text("a\nb\n")
    where = ("--out", "job", "--base-url", shop.url, "--no-quota")
    ended = await command("run", "p.txt", *where, "--json")
    summary = json.loads(ended.output)
    assert (ended.status, summary["in_doubt"], summary["again"]) == (3, 1, 0)
    assert (summary["spent"], summary["credits_in_doubt"]) == (3.0, 3.0)
    ended = await command("run", "--resend-doubtful", *where)
    assert ended.status == 0, ended.errors
    assert "sent again, for 3 credits" in ended.errors
    assert shop.sold.total() == 3
