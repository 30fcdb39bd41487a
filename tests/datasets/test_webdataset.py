"""What is exported, read back by the `webdataset` package."""

from __future__ import annotations

import gc
import json
import warnings
from typing import TYPE_CHECKING

import pytest

from stable_async.datasets import export_job
from tests import needs
from tests.job_folder import JobFolder, png

with warnings.catch_warnings():
    # Of the libraries that it imports.
    warnings.simplefilter("ignore")
    webdataset = needs.module("webdataset")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# It leaves the tar files that it has read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


def test_webdataset_reads_every_sample_as_image_json_and_text(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for number in range(30):
            job.add(f"a lighthouse. {number}", identity=f"v1.0.{number}")
    summary = export_job(job.folder, tmp_path / "set", "webdataset", shard_size=1_000)
    pattern = f"{tmp_path}/set/{{00000..{summary.shards - 1:05d}}}.tar"
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert len(samples) == 30
    for number, sample in enumerate(samples):
        facts = json.loads(sample["json"])
        assert sample["txt"].decode() == facts["text"] == f"a lighthouse. {number}"
        assert facts["id"] == f"v1.0.{number}"
        assert sample["png"] == png(number + 1)
    assert len({sample["__key__"] for sample in samples}) == 30


def test_the_usual_pipeline_decodes_images(tmp_path: Path) -> None:
    needs.module("PIL")
    with JobFolder(tmp_path / "job") as job:
        job.add("a lighthouse")
    export_job(job.folder, tmp_path / "set", "webdataset")
    pipeline = webdataset.WebDataset(f"{tmp_path}/set/00000.tar", shardshuffle=False)
    [(image, text, facts)] = pipeline.decode("pil").to_tuple("png;jpg;webp", "txt", "json")
    assert image.size == (1, 1)
    assert text == facts["text"] == "a lighthouse"
