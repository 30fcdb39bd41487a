from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.job_folder import JobFolder

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Command


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    with JobFolder(tmp_path / "job") as job:
        job.add("a lighthouse")
        job.add("a canal", filtered=True)
    return job


async def test_an_export_says_what_it_wrote(command: Command, job: JobFolder) -> None:
    arguments = ("export", "job", "--format", "webdataset", "--to", "set")
    ended = await command(*arguments)
    assert (ended.status, ended.errors) == (0, "")
    assert "1 image," in ended.output
    assert "1 filtered left out" in ended.output
    again = await command(*arguments, "--include-filtered", "--json")
    assert json.loads(again.output)["media"] == 2
    assert (job.folder.parent / "set" / "00000.tar").exists()


async def test_damaged_images_are_named_and_change_the_status(
    command: Command, job: JobFolder
) -> None:
    next((job.folder / "images").rglob("*1.png")).unlink()
    ended = await command("export", "job", "--format", "imagefolder", "--to", "set")
    assert ended.status == 3
    assert "left out: prompt.1" in ended.errors


async def test_a_report_is_written_beside_the_images(command: Command, job: JobFolder) -> None:
    ended = await command("report", "job")
    assert (ended.status, ended.output.strip()) == (0, "job/report.html")
    assert (job.folder / "report.html").exists()


@pytest.mark.parametrize(
    "arguments", [("report", "."), ("export", ".", "--format", "parquet", "--to", "set")]
)
async def test_a_folder_that_is_no_job_is_refused_in_one_line(
    command: Command, arguments: tuple[str, ...]
) -> None:
    ended = await command(*arguments)
    assert ended.status == 1
    assert ended.errors.strip().splitlines() == [
        "stable-async: . is not a job: it has no job.sqlite"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--format", "zip"),
        ("--shard-size", "0"),
        ("--shard-size", "nan"),
        ("--shard-size", "inf"),
    ],
)
async def test_wrong_usage_has_status_2(
    command: Command, job: JobFolder, wrong: tuple[str, str]
) -> None:
    ended = await command("export", "job", "--format", "parquet", "--to", "set", *wrong)
    assert ended.status == 2
    assert not (job.folder.parent / "set").exists()
