"""Data sets of audio and of models, and what of a job goes into one."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from stable_async.datasets import Selection, export_job
from stable_async.datasets.near_duplicates import MOST_BITS, NearDuplicates
from stable_async.datasets.selection import Splits
from stable_async.errors import ConfigurationError
from stable_async.jobs import JobError
from stable_async.jobs.job_options import SANDBOX, JobOptions
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.plan import Plan
from tests import needs
from tests.job_folder import JobFolder, broken_png

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.datasets import ExportFormat

# An MP3 frame, and an empty model.
MP3 = b"\xff\xfb\x90\x00" + b"\0" * 413
GLB = b"glTF\x02\0\0\0\x0c\0\0\0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def audio_job(folder: Path, count: int) -> Path:
    with JobFolder(folder) as job, job.at_once():
        for number in range(count):
            job.add(
                f"rain {number}",
                identity=f"r{number}",
                service="text-to-audio",
                metadata={"label": number},
                data=MP3 + str(number).encode(),
                content_type="audio/mpeg",
            )
    return folder


def test_audio_in_parquet_is_loaded_by_datasets(tmp_path: Path) -> None:
    datasets = needs.module("datasets")
    job = audio_job(tmp_path / "job", 3)
    summary = export_job(job, tmp_path / "set", "parquet")
    assert summary.media == 3
    loaded = datasets.load_dataset(
        str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["audio"], datasets.Audio)
    assert "width" not in loaded.features
    rows = list(loaded.cast_column("audio", datasets.Audio(decode=False)))
    assert [row["text"] for row in rows] == ["rain 0", "rain 1", "rain 2"]
    assert [row["label"] for row in rows] == [0, 1, 2]
    assert [row["audio"]["bytes"] for row in rows] == [MP3 + b"0", MP3 + b"1", MP3 + b"2"]
    assert "3 audio files" in (tmp_path / "set/README.md").read_text()


def test_datasets_knows_an_audio_folder_and_its_columns(tmp_path: Path) -> None:
    """Loading one takes torchcodec, which is large; what it has is known without."""
    datasets = needs.module("datasets")
    job = audio_job(tmp_path / "job", 3)
    export_job(job, tmp_path / "set", "audiofolder")
    builder = datasets.load_dataset_builder(
        str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )
    assert "audiofolder" in type(builder).__name__.lower()
    assert isinstance(builder.info.features["audio"], datasets.Audio)
    assert builder.info.features["label"].dtype == "int64"
    assert len(builder.config.data_files["train"]) == 4
    rows = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").read_text().splitlines()]
    assert [(tmp_path / "set" / row["file_name"]).read_bytes() for row in rows] == [
        MP3 + b"0",
        MP3 + b"1",
        MP3 + b"2",
    ]


def test_models_are_files_with_metadata(tmp_path: Path) -> None:
    datasets = needs.module("datasets")
    with JobFolder(tmp_path / "job") as job:
        job.add("a chair", service="stable-fast-3d", data=GLB, content_type="model/gltf-binary")
    with pytest.raises(JobError, match="parquet is not for models; allowed: webdataset, files"):
        export_job(job.folder, tmp_path / "other", "parquet")
    export_job(job.folder, tmp_path / "set", "files")
    [line] = (tmp_path / "set/metadata.jsonl").read_text().splitlines()
    assert (tmp_path / "set" / json.loads(line)["file_name"]).read_bytes() == GLB
    loaded = datasets.load_dataset(
        str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[0]["file_name"] == "models/00000/000000001.glb"
    assert loaded[0]["text"] == "a chair"


def test_images_and_audio_make_no_data_set(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("a")
        job.add("b", data=MP3, content_type="audio/mpeg")
    with pytest.raises(JobError, match="has audio files and images"):
        export_job(job.folder, tmp_path / "set", "files")


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "webdataset"])
def test_splits_are_loaded_by_their_names(tmp_path: Path, kind: ExportFormat) -> None:
    datasets = needs.module("datasets")
    with JobFolder(tmp_path / "job") as job, job.at_once():
        for number in range(200):
            job.add(f"prompt {number // 2}", identity=f"p{number // 2}[seed={number % 2}]")
    selection = Selection(splits={"train": 0.8, "test": 0.2})
    summary = export_job(job.folder, tmp_path / "set", kind, selection=selection)
    assert summary.media == 200
    assert 20 <= summary.splits["test"] <= 60
    assert sum(summary.splits.values()) == 200
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == summary.splits
    texts = {
        name: {row["text"] for row in rows}
        if kind != "webdataset"
        else {row["txt"] for row in rows}
        for name, rows in loaded.items()
    }
    assert not texts["train"] & texts["test"], "variants of a row stay together"
    again = export_job(job.folder, tmp_path / "set", kind, selection=selection)
    assert again.kept == again.shards
    with pytest.raises(JobError, match="other splits"):
        export_job(job.folder, tmp_path / "set", kind)


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "webdataset"])
def test_a_data_set_with_an_empty_split_is_loaded(tmp_path: Path, kind: ExportFormat) -> None:
    """As of a few images, of which none falls into a small split."""
    datasets = needs.module("datasets")
    with JobFolder(tmp_path / "job") as job:
        job.add("a kite", identity="a")
    selection = Selection(splits={"test": 0.001, "train": 0.998, "validation": 0.001})
    summary = export_job(job.folder, tmp_path / "set", kind, selection=selection)
    assert summary.splits == {"test": 0, "train": 1, "validation": 0}
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 1}
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| test | 0 |" in card
    assert "test/" not in card.partition("## Load it")[2]


def test_an_id_stays_in_its_split_when_others_come() -> None:
    splits = Splits.of({"train": 0.9, "validation": 0.05, "test": 0.05})
    found = Counter(splits.of_id(f"row {number}") for number in range(20_000))
    assert abs(found["train"] - 18_000) < 300
    assert abs(found["test"] - 1_000) < 150
    for shares, told in (
        ({"train": 0.9, "test": 0.2}, "sum to 1.1"),
        ({"train": 1.5, "test": -0.5}, "allowed: a share above 0, up to 1"),
        ({"a b": 1.0}, "allowed: letters"),
        ({"../x": 1.0}, "allowed: letters"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            Splits.of(shares)


def test_what_the_prompt_file_has_no_more_can_be_left_out(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        for name in "abc":
            job.add(name)
    ledger = Ledger.open(job.folder / "job.sqlite")
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(seen=[(1, 1), (3, 2)]))
        ledger.unlist_unseen()
    ledger.close()
    summary = export_job(
        job.folder, tmp_path / "set", "imagefolder", selection=Selection(only_listed=True)
    )
    assert (summary.media, summary.unlisted) == (2, 1)
    lines = (tmp_path / "set/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "c"]
    assert export_job(job.folder, tmp_path / "all", "imagefolder").media == 3


def sample_image(seed: int, *, quality: int = 95) -> bytes:
    """Return a scene of soft shapes, the same for a seed but for how it is compressed."""
    import random

    from PIL import Image, ImageDraw, ImageFilter

    place = random.Random(seed)
    image = Image.new("RGB", (256, 256), tuple(place.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = place.randrange(256), place.randrange(256), place.randrange(20, 120)
        color = tuple(place.randrange(256) for _ in range(3))
        draw.ellipse((x - size, y - size, x + size, y + size), fill=color)
    buffer = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(2)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_images_that_look_alike_are_taken_once(tmp_path: Path) -> None:
    needs.module("imagehash")
    with JobFolder(tmp_path / "job") as job:
        for number in range(12):
            job.add(f"scene {number}", data=sample_image(number), content_type="image/jpeg")
        for number in (2, 5, 7):
            data = sample_image(number, quality=60)
            job.add(f"again {number}", data=data, content_type="image/jpeg")
        job.add("broken", data=b"no image", content_type="image/jpeg")
        job.add("damaged", data=broken_png())
    selection = Selection(drop_duplicates=True)
    hashes = tmp_path / "set/.export/hashes.txt"
    for kept in 1.0, 0.99, 0.5, 0.0:  # the rest was not written when the export was killed
        if hashes.exists():
            os.truncate(hashes, int(hashes.stat().st_size * kept))
        summary = export_job(job.folder, tmp_path / "set", "imagefolder", selection=selection)
        assert (summary.media, summary.duplicates) == (14, 3)
    lines = (tmp_path / "set/metadata.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert texts == [f"scene {number}" for number in range(12)] + ["broken", "damaged"]
    assert (
        "3 images are left out: too similar to an earlier one"
        in (tmp_path / "set/README.md").read_text()
    )


def test_hashes_are_found_up_to_a_distance() -> None:
    import random

    place = random.Random(1)
    for _ in range(300):
        seen = NearDuplicates()
        value = place.getrandbits(64)
        assert seen.add(7, value) is None
        bits = place.sample(range(64), MOST_BITS + 1)
        near = value
        for bit in bits[:-1]:
            near ^= 1 << bit
            assert seen.add(8, near) == 7
        assert seen.add(9, near ^ 1 << bits[-1]) is None


def test_a_data_set_of_the_sandbox_says_so(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add("a fox")
    ledger = Ledger.open(job.folder / "job.sqlite")
    with ledger.transaction():
        JobOptions(
            server=SANDBOX, prompts="-", folder=".", service="core", set={}, vary={}, reading={}
        ).store(ledger)
    ledger.close()
    export_job(job.folder, tmp_path / "set", "imagefolder")
    text = (tmp_path / "set/README.md").read_text()
    assert "made by the sandbox of stable_async and not by the Stability AI API" in text
    assert "credits (" not in text
    assert '"stability-ai"' not in text


def test_the_command_names_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = audio_job(tmp_path / "job", 40)
    words = ["export", str(job), "--format", "audiofolder", "--to", str(tmp_path / "set")]
    assert run([*words, "--split", "train=0.5,test=0.5"]) == 0
    told = capsys.readouterr().out
    assert "40 audio files" in told
    assert "train " in told
    for wrong in ("train", "train=x", "train=0.5,train=0.5", "train=0.5"):
        assert run([*words, "--split", wrong]) == 2
