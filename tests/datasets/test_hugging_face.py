"""What is exported, read back by Hugging Face `datasets`; nothing leaves this machine."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from stable_async.datasets import ExportFormat, export_job
from tests import needs
from tests.job_folder import JobFolder

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
with warnings.catch_warnings():
    # Of the libraries that it imports.
    warnings.simplefilter("ignore", DeprecationWarning)
    datasets = needs.module("datasets")

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPTS = ["a lighthouse", "a test of train/test", 'quotes " and\nlines', "灯台"]
COLUMN: dict[ExportFormat, str] = {"imagefolder": "image", "parquet": "image", "webdataset": "png"}


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose columns mislead whoever looks at the first rows only."""
    with JobFolder(tmp_path_factory.mktemp("datasets") / "job") as job:
        for number, prompt in enumerate(PROMPTS * 25):
            job.add(prompt, identity=f"test-{number}", metadata={"n": 1})
        job.add(
            "the last",
            identity="train",
            service="sd3",
            parameters={"model": "sd3.5-large", "cfg_scale": 3},
            metadata={"n": 0.5, "image_file_name": "x.png"},
        )
    return job.folder


@pytest.fixture(scope="module", params=["imagefolder", "webdataset", "parquet"])
def exported(
    request: pytest.FixtureRequest, job: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExportFormat, Path]:
    target = tmp_path_factory.mktemp("exported") / "set"
    kind: ExportFormat = request.param
    export_job(job, target, kind, shard_size=4_000)
    return kind, target


class Rows(Protocol):
    features: dict[str, object]

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def cast_column(self, column: str, feature: object) -> Rows: ...


def load(tmp_path: Path, name: str, **options: object) -> Rows:
    rows: Rows = datasets.load_dataset(
        name, split="train", cache_dir=str(tmp_path / "cache"), **options
    )
    return rows


def undecoded(rows: Rows, *columns: str) -> Rows:
    for column in columns:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def check(rows: Rows, kind: ExportFormat) -> None:
    texts = []
    for row in undecoded(rows, COLUMN[kind]):
        facts = row["json"] if kind == "webdataset" else row
        media = row[COLUMN[kind]]
        data = media["bytes"] or Path(media["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == facts["sha256"]
        texts.append(facts["text"])
        last = facts["text"] == "the last"
        assert facts["n"] == (0.5 if last else 1.0)
        assert facts["model"] == ("sd3.5-large" if last else None)
        assert facts["image_file_name_source"] == ("x.png" if last else None)
    assert sorted(texts) == sorted([*PROMPTS * 25, "the last"])


def test_datasets_loads_every_image_and_column(
    exported: tuple[ExportFormat, Path], tmp_path: Path
) -> None:
    kind, target = exported
    check(load(tmp_path, str(target)), kind)


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_datasets_loads_the_same_without_the_card(
    job: Path, tmp_path: Path, kind: ExportFormat
) -> None:
    export_job(job, tmp_path / "set", kind)
    (tmp_path / "set" / "README.md").unlink()
    check(load(tmp_path, kind, data_dir=str(tmp_path / "set")), kind)


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset", "parquet"])
def test_names_in_signs_of_every_plane_load(tmp_path: Path, kind: ExportFormat) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add(metadata={"🎨 ü\x7f": "x"})
    export_job(job.folder, tmp_path / "set 🎨", kind)
    (row,) = undecoded(load(tmp_path, str(tmp_path / "set 🎨")), COLUMN[kind])
    assert (row["json"] if kind == "webdataset" else row)["🎨 ü\x7f"] == "x"


def test_images_decode(exported: tuple[ExportFormat, Path], tmp_path: Path) -> None:
    needs.module("PIL")
    kind, target = exported
    rows = load(tmp_path, str(target))
    assert isinstance(rows.features[COLUMN[kind]], datasets.Image)
    assert rows[0][COLUMN[kind]].size == (1, 1)


def test_a_data_set_streams(exported: tuple[ExportFormat, Path], tmp_path: Path) -> None:
    kind, target = exported
    rows = load(tmp_path, str(target), streaming=True)
    assert sum(1 for _ in undecoded(rows, COLUMN[kind])) == 101


def test_images_of_several_media_types_load_from_tar_files(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for number in range(12):
            job.add(content_type="image/jpeg" if number % 2 else "image/png")
    export_job(job.folder, tmp_path / "set", "webdataset")
    rows = undecoded(load(tmp_path, str(tmp_path / "set")), "png", "jpg")
    types = [[row["png"] is not None, row["jpg"] is not None] for row in rows]
    assert types == [[True, False], [False, True]] * 6
