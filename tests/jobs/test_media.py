"""Audio and models in jobs, against the sandbox: one kind of media for each job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from stable_async.jobs import PromptFile, PromptFileError, PromptRules
from stable_async.jobs.estimate import estimate_run
from stable_async.jobs.kinds import AUDIO, IMAGE, MODEL, kind_of_service
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def photo(folder: Path, name: str) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    Image.new("RGB", (80, 80), "teal").save(folder / name)


def test_audio_is_made_estimated_reported_and_exported(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seconds,label\nrain,2,a\nwind,3,b\n")
    words = ["run", "p.csv", "--out", "out", "--service", "text-to-audio", "--sandbox"]
    assert run(words) == 2
    words += ["--map", "seconds=duration"]
    assert run(words) == 0
    made = lines(tmp_path / "out")
    assert {line["label"] for line in made} == {"a", "b"}
    for line in made:
        name = str(line["file_name"])
        assert name.startswith("audio/")
        assert name.endswith(".mp3")
        assert (tmp_path / "out" / name).stat().st_size
    assert run(words) == 0
    assert len(lines(tmp_path / "out")) == 2
    assert run(["report", "out"]) == 0
    assert run(["export", "out", "--format", "audiofolder", "--to", "set"]) == 0
    assert run(["export", "out", "--format", "imagefolder", "--to", "other"]) == 1
    (tmp_path / "out/job.sqlite").unlink()
    assert run(words) == 0, "the ledger is rebuilt from the images"
    assert len(lines(tmp_path / "out")) == 2


def test_models_are_made_of_a_folder_of_photos(tmp_path: Path) -> None:
    photo(tmp_path / "photos", "a chair.png")
    photo(tmp_path / "photos", "b.jpg")
    words = ["run", "photos", "--out", "out", "--service", "stable-fast-3d", "--sandbox"]
    assert run(words) == 0
    made = lines(tmp_path / "out")
    assert {line["id"] for line in made} == {"a chair.png", "b.jpg"}
    for line in made:
        path = tmp_path / "out" / str(line["file_name"])
        assert path.suffix == ".glb"
        assert path.read_bytes().startswith(b"glTF")
    assert run(["export", "out", "--format", "files", "--to", "set"]) == 0


def test_images_inside_a_table_are_cut_out(tmp_path: Path) -> None:
    datasets = needs.module("datasets")
    for name in ("a.png", "b.png"):
        photo(tmp_path / "photos", name)
    files = [(tmp_path / "photos" / name).read_bytes() for name in ("a.png", "b.png")]
    files[1] += b"differs"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {
        "image": [{"bytes": data, "path": f"{place}.png"} for place, data in enumerate(files)],
        "label": ["x", "y"],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "p.parquet")
    words = ["run", "p.parquet", "--out", "out", "--service", "remove-background", "--sandbox"]
    assert run([*words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert run(words) == 0
    made = sorted(lines(tmp_path / "out"), key=lambda line: str(line["label"]))
    assert [(line["label"], line["image_path"]) for line in made] == [
        ("x", "0.png"),
        ("y", "1.png"),
    ]
    assert [(tmp_path / "out" / str(line["image"])).read_bytes() for line in made] == files
    (tmp_path / "p.parquet").rename(tmp_path / "q.parquet")
    words[1] = "q.parquet"
    assert run(words) == 0
    assert len(lines(tmp_path / "out")) == 2


def test_a_job_makes_one_kind_of_media(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "rain", "service": "text-to-audio"}\n')
    with pytest.raises(PromptFileError, match="makes audio files, and this job makes images"):
        estimate_run(PromptFile(str(path)), PromptRules())
    assert kind_of_service("text_to_audio") is AUDIO
    assert kind_of_service("stable-fast-3d") is MODEL
    assert kind_of_service("core") is IMAGE
