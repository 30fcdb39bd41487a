"""Settings of a job: anything unclear is one error that names what is allowed."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from stable_async import ConfigurationError, Quota, SharedQuota
from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules
from stable_async.jobs.estimate import estimate_run


def test_paths_may_be_text_or_path_objects(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a lighthouse\n")
    kinds: tuple[Any, ...] = (str, Path)
    for kind in kinds:
        assert JobSettings(folder=kind("out")).folder == Path("out")
        prompts = PromptFile(kind(tmp_path / "prompts.txt"))
        assert (prompts.path, prompts.name) == (
            tmp_path / "prompts.txt",
            str(tmp_path / "prompts.txt"),
        )
        assert SharedQuota.file(kind(tmp_path / "quota")).path == tmp_path / "quota"


@pytest.mark.parametrize(
    "settings",
    [
        {"folder": 7},
        {"folder": b"out"},
        {"foldr": "out"},
        {"budget": "3"},
        {"budget": -1},
        {"max_in_flight": "3"},
        {"max_in_flight": 0},
        {"passes": 1.5},
        {"retry": "filterd"},
        {"resend_doubtful": "yes"},
        {"outage_limit": "120"},
    ],
    ids=str,
)
def test_a_setting_of_a_job_that_means_nothing_is_a_configuration_error(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        JobSettings(**{"folder": "out", **settings})


@pytest.mark.parametrize(
    ("settings", "rules", "has_file", "told"),
    [
        ({"check": False}, {"sample": 2}, True, "sample is 2; allowed: only with the check"),
        ({}, {"limit": 2}, False, "limit is 2; allowed: only with the prompts"),
        ({}, {"sample": 3}, False, "sample is 3; allowed: only with the prompts"),
    ],
)
def test_rows_are_chosen_only_where_a_run_can(
    tmp_path: Path, settings: dict[str, Any], rules: dict[str, Any], has_file: bool, told: str
) -> None:
    """It would make all of them."""
    path = tmp_path / "p.txt"
    path.write_text("a lighthouse\n")
    prompts = PromptFile(path) if has_file else None
    given = JobSettings(folder=tmp_path / "job", **settings), prompts, PromptRules(**rules)
    with pytest.raises(ConfigurationError, match=told):
        Job(*given)
    with pytest.raises(ConfigurationError, match=told):
        estimate_run(prompts, given[2], given[0])
    with pytest.raises(ConfigurationError, match="retry is filtered; allowed: only with the check"):
        JobSettings(folder=tmp_path, retry="filtered", check=False)


@pytest.mark.parametrize("name", signature(JobSettings).parameters)
def test_every_setting_of_a_job_is_checked(name: str) -> None:
    settings: dict[str, Any] = {"folder": "out", name: object()}
    with pytest.raises(ConfigurationError, match=f"^{name} is object; allowed: "):
        JobSettings(**settings)


def test_wrong_words_and_values_of_other_settings_too() -> None:
    with pytest.raises(ConfigurationError, match=r"delimitr: .*did you mean delimiter"):
        PromptFile("x.csv", delimitr=";")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="source is 7"):
        PromptFile(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="path is 7"):
        SharedQuota.file(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="quota is a int"):
        SharedQuota.file("quota", 150)  # type: ignore[arg-type]
    assert SharedQuota.file("quota", Quota(requests=100)).quota.requests == 100
