"""The summary of a run fits what happened, and says what to do now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from stable_async.cli.display import summary_lines
from stable_async.jobs import Summary
from stable_async.jobs.kinds import AUDIO, IMAGE
from stable_async.jobs.progress import Left

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = Summary(
    ending="complete",
    total=1,
    done=1,
    skipped=0,
    failed=0,
    again=0,
    in_doubt=0,
    filtered=0,
    missing=0,
    credits=3.0,
    spent=3.0,
    credits_in_doubt=0.0,
    requests=1,
    rate_limited=0,
    seconds=1.2,
    peak_in_flight=1,
)


def test_one_is_one() -> None:
    assert list(summary_lines(WHOLE, Left())) == [
        "1 image made",
        "3 credits spent, 1 request, 1 s",
    ]
    [missing, *_] = summary_lines(replace(WHOLE, missing=1), Left())
    assert missing == "1 image made, 1 without its file"
    two = replace(WHOLE, done=2, credits=1.0, spent=1.0, requests=2)
    assert list(summary_lines(two, Left(), kind=AUDIO)) == [
        "2 audio files made",
        "1 credit spent, 2 requests, 1 s",
    ]


def test_only_what_happened_is_said() -> None:
    some = replace(
        WHOLE,
        ending="incomplete",
        done=1_200,
        skipped=20,
        failed=3,
        filtered=2,
        credits=3_606.0,
        spent=3_666.0,
        rate_limited=4,
        requests=1_209,
    )
    first, second, *_, last = summary_lines(some, Left())
    assert first == "1,200 images made, 20 made before, 3 failed, 2 filtered"
    assert second == (
        "3,606 credits spent (3,666 by all runs), 1,209 requests, 4 of them answered with 429, 1 s"
    )
    assert last.startswith("--retry filtered")


def test_the_budget_is_named_when_it_is_the_budget() -> None:
    spent = replace(WHOLE, ending="budget", total=143, spent=500.0, credits_in_doubt=3.0)
    *_, last = summary_lines(spent, Left(142, 426.0))
    assert last == (
        "the budget is reached: 142 rows left, for 426 credits; --budget 929 is enough for all"
    )
    *_, last = summary_lines(spent, Left(142, 426.0, parts=3))
    assert last.endswith("; --budget 2787 is enough for all")
    *_, last = summary_lines(replace(spent, spent=1_234_567.0), Left(1, 3.0))
    assert last.endswith("; --budget 1234573 is enough for all")
    *_, last = summary_lines(spent, Left(142, 426.0, parts=None))
    assert last.endswith("426 credits")
    *_, last = summary_lines(replace(spent, ending="interrupted"), Left(1, 3.0))
    assert last == "1 row left, for 3 credits: run the same command again"


def test_doubts_are_priced() -> None:
    doubtful = replace(WHOLE, ending="incomplete", in_doubt=1, credits_in_doubt=3.0)
    *_, last = summary_lines(doubtful, Left(), kind=IMAGE)
    assert last.startswith("in doubt: 3 credits may have been billed without a result")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("estimate", "p.txt"), "interrupted"),
        (("estimate", "run"), "interrupted"),  # a file of that name
        (("run", "p.txt", "--out", "DIR"), "billed"),
    ],
)
def test_ctrl_c_says_what_it_may_have_cost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stable_async.cli.prompt_options.PromptOptions.read", interrupt)
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 130
    assert message in capsys.readouterr().err
