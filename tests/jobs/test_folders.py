"""Folders, patterns and data sets as rows: each file is the input of one request."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import (
    Job,
    JobSettings,
    PromptFile,
    PromptFileError,
    PromptRules,
    RowProblem,
)
from stable_async.jobs.columns import ColumnRules
from stable_async.jobs.estimate import estimate_run
from stable_async.jobs.row import Row
from stable_async.jobs.rules import check
from tests import needs
from tests.samples import png_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_async.jobs import Summary
    from tests.jobs.conftest import Bench

CUT_OUT = ColumnRules(service="remove-background")


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_header(64, 64) + name.encode())


def read(source: Path | str, rules: ColumnRules = CUT_OUT) -> list[Row]:
    rows = list(PromptFile(str(source), rules=rules).rows())
    assert not any(isinstance(row, RowProblem) for row in rows), rows
    return [row for row in rows if isinstance(row, Row)]


def names(rows: Sequence[Row], field: str = "image") -> list[object]:
    return [row.fields[field] for row in rows]


def test_a_folder_is_read_with_its_folders_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.png", "a/z.JPG", "a/y.webp", "c/d/e.jpeg")
    make(tmp_path, ".hidden.png", ".trash/a.png", "._b.png")  # of file managers
    make(tmp_path, "cut/images/0000/000001-x.png", "cut/job.sqlite")  # a job in the folder
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "raw.heic").write_text("x")
    source = PromptFile(str(tmp_path), rules=CUT_OUT)
    rows = [row for row in source.rows() if isinstance(row, Row)]
    assert names(rows) == ["a/y.webp", "a/z.JPG", "b.png", "c/d/e.jpeg"]
    assert [row.fields["id"] for row in rows] == names(rows)
    assert source.folder == tmp_path
    [note] = source.notes
    assert note == (
        "left out: 2 other files of the folder (1 .txt, 1 .heic); remove-background takes "
        ".jpg, .jpeg, .jfif, .png, .webp"
    )
    assert all((source.folder / str(name)).is_file() for name in names(rows))


def test_jpeg_files_as_browsers_name_them_are_taken(tmp_path: Path) -> None:
    make(tmp_path, "a.jfif", "b.JFIF")
    (tmp_path / "c.jfif").write_text("no image " * 20)
    source = PromptFile(str(tmp_path), rules=CUT_OUT)
    with pytest.raises(PromptFileError, match=r"^[^;]*\(c\.jfif\): image: given another kind of"):
        estimate_run(source, PromptRules(service="remove-background"))
    assert names(read(tmp_path)) == ["a.jfif", "b.JFIF", "c.jfif"]
    assert not source.notes


def test_a_pattern_chooses_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "photos/a.png", "photos/b.jpg", "photos/in/c.png", "other/d.png")
    make(tmp_path, "photos/.e.png", "photos/out/job.sqlite", "photos/out/images/f.png")
    assert names(read(tmp_path / "photos/*.png")) == ["a.png"]
    assert names(read(tmp_path / "photos/**/*.png")) == ["a.png", "in/c.png"]
    assert names(read(tmp_path / "*/[ad].png")) == ["other/d.png", "photos/a.png"]
    monkeypatch.chdir(tmp_path)
    source = PromptFile("photos/*.[pj]*", rules=CUT_OUT)
    assert len(list(source.rows())) == 2
    assert source.folder == tmp_path / "photos"
    # A file of such a name is a file.
    Path("a[1].txt").write_text("photos/a.png\n")
    assert names(read("a[1].txt")) == ["photos/a.png"]


def test_an_input_file_itself_and_addresses_of_files_are_told(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(PromptFileError, match="an input file: name its folder, or a pattern such"):
        PromptFile(tmp_path / "a.jpg", rules=CUT_OUT)
    make(tmp_path, "#1.png")
    (tmp_path / "p.csv").write_text("image\n#1.png\n")
    assert names(read(tmp_path / "p.csv")) == ["#1.png"], "no comment"
    row = Row(1, {"image": "https://x/a.jpg"}, service="remove-background")
    [problem] = check(row, tmp_path)
    assert "'https://x/a.jpg'; allowed: the path of a downloaded file" in str(problem)


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "a/b.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    source = PromptFile(tmp_path, rules=CUT_OUT)
    for _ in range(2):
        assert [row.fields["image"] for row in source.rows() if isinstance(row, Row)] == ["a/b.png"]
        assert source.notes == ["links to folders are not followed: 1"]
    (tmp_path / "a" / "b.png").unlink()
    with pytest.raises(PromptFileError, match=r"\.webp; links to folders are not followed: 1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("service", "given", "told"),
    [
        ("core", (), "core takes no input files"),
        ("upscale-conservative", (), "needs image and prompt: set the others"),
        ("style-transfer", (), "needs init_image and style_image"),
        ("audio-to-audio", ("prompt",), "no files that end in .mp3, .wav; it has 1 .png"),
    ],
)
def test_what_a_service_needs_is_told(
    tmp_path: Path, service: str, given: Sequence[str], told: str
) -> None:
    make(tmp_path, "a.png")
    with pytest.raises(PromptFileError) as caught:
        read(tmp_path, ColumnRules(service=service, given=frozenset(given)))
    assert told in str(caught.value)


def test_the_other_things_may_be_given_for_all(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    for service, given, field in (
        ("upscale-conservative", {"prompt"}, "image"),
        ("style-transfer", {"style_image"}, "init_image"),
        ("ultra", {"prompt"}, "image"),
        ("stable-fast-3d", set[str](), "image"),
        ("replace-background-and-relight", {"background_prompt"}, "subject_image"),
    ):
        rows = read(tmp_path, ColumnRules(service=service, given=frozenset(given)))
        assert names(rows, field) == ["a.png"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_folder_that_datasets_loads_keeps_its_metadata(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, "images/a.png", "images/b.png", "stray.png")
    lines = [
        {"file_name": "images/a.png", "text": "a fox", "seed": 7, "label": "x"},
        {"file_name": "images/b.png", "text": "a hare, brown", "seed": 8, "label": "y"},
    ]
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        path.write_text(
            'file_name,text,seed,label\nimages/a.png,a fox,7,x\nimages/b.png,"a hare, brown",8,y\n'
        )
    first, second = read(tmp_path)
    assert first.fields == {"image": "images/a.png", "id": "images/a.png"}
    assert first.metadata == {
        "source_text": "a fox",
        "source_seed": 7 if suffix == "jsonl" else "7",
        "label": "x",
    }
    assert second.metadata["source_text"] == "a hare, brown"
    rules = ColumnRules(service="upscale-conservative", map={"text": "prompt"})
    with pytest.raises(PromptFileError, match="needs image and prompt"):
        read(tmp_path, ColumnRules(service="upscale-conservative"))
    assert read(tmp_path, rules)[0].fields["prompt"] == "a fox"


def test_splits_have_their_own_metadata(tmp_path: Path) -> None:
    for split in ("test", "train"):
        make(tmp_path, f"{split}/a.png")
        line = {"file_name": "a.png", "label": split}
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    assert [(row.fields["image"], row.metadata["label"]) for row in read(tmp_path)] == [
        ("test/a.png", "test"),
        ("train/a.png", "train"),
    ]


def test_metadata_that_names_no_files_is_refused_by_its_name(tmp_path: Path) -> None:
    make(tmp_path, "train/a.png")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"image": "a.png", "text": "a fox"}\n')
    wrong = r"row 1: train/metadata\.jsonl: no key 'file_name'; the keys are: image, text$"
    with pytest.raises(PromptFileError, match=wrong):
        read(tmp_path)


def images(count: int) -> list[bytes]:
    """Return small images that differ, of which some are too large for one look."""
    return [png_header(64 + number, 64) + b"x" * 100_000 for number in range(count)]


def test_images_in_parquet_are_inputs(tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
    parquet = needs.module("pyarrow.parquet")
    files = images(40)
    image = [{"bytes": data, "path": f"photos/{place}.png"} for place, data in enumerate(files)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = tmp_path / "p.parquet"
    for column in ("image", "photo"):
        table = pa.table({"label": list(range(40)), column: pa.array(image, kind)})
        parquet.write_table(table, path)
        source = PromptFile(str(path), rules=CUT_OUT)
        assert source.has_inputs_inside
        rows = [row for row in source.rows() if isinstance(row, Row)]
        assert rows[3].metadata == {"label": 3, f"{column}_path": "photos/3.png"}
        # For a look: the right size and head, and little room on the disk.
        looked_at = source.folder / str(rows[3].fields["image"])
        assert looked_at.stat().st_size == len(files[3])
        assert looked_at.stat().st_blocks * 512 < 80_000
        out = tmp_path / f"out-{column}"
        source.keep_inputs(out)
        rows = [row for row in source.rows() if isinstance(row, Row)]
        assert source.folder == out
        assert [(out / str(row.fields["image"])).read_bytes() for row in rows] == files
        # Where the service takes no images, they are only left out.
        captions = PromptFile(str(path), rules=ColumnRules(service="core", map={"label": "prompt"}))
        assert not captions.has_inputs_inside
        assert len(list(captions.rows())) == 40
        assert captions.columns.left_out == [column]
    temporary = source.folder
    del source
    assert temporary.exists()


def test_a_folder_of_parquet_files_is_a_data_set(tmp_path: Path) -> None:
    datasets = needs.module("datasets")
    files = images(4)
    features = datasets.Features({"img": datasets.Image(), "seed": datasets.Value("int64")})
    (tmp_path / "data").mkdir()
    for shard in range(2):
        rows = {"img": [{"bytes": data, "path": None} for data in files[shard * 2 :][:2]]}
        table = datasets.Dataset.from_dict({**rows, "seed": [1, 2]}, features=features)
        table.to_parquet(tmp_path / f"data/train-{shard:05d}-of-00002.parquet")
    source = PromptFile(str(tmp_path), rules=CUT_OUT)
    source.keep_inputs(tmp_path / "out")
    found = [row for row in source.rows() if isinstance(row, Row)]
    assert [(source.folder / str(row.fields["image"])).read_bytes() for row in found] == files
    assert [row.metadata for row in found] == [{"source_seed": 1}, {"source_seed": 2}] * 2
    saved = tmp_path / "saved"
    table.save_to_disk(saved)
    with pytest.raises(PromptFileError, match="to_parquet"):
        read(saved)


def test_a_folder_of_parquet_files_with_prompts_is_one_table(tmp_path: Path) -> None:
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    for shard in range(2):
        prompts = [f"fox {shard}", f"kite {shard}"]
        table = pa.table({"prompt": prompts, "seed": [1, 2], "theme": ["x", "y"]})
        parquet.write_table(table, tmp_path / f"train-{shard:05d}-of-00002.parquet")
    for source in (tmp_path, tmp_path / "train-*.parquet"):
        for service in ("core", "sd3"):
            rows = read(source, ColumnRules(service=service))
            assert names(rows, "prompt") == ["fox 0", "kite 0", "fox 1", "kite 1"]
            assert names(rows, "seed") == [1, 2, 1, 2]
            assert [row.number for row in rows] == [1, 2, 3, 4]
            assert rows[0].metadata == {"theme": "x"}
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "train-00002-of-00003.parquet")
    with pytest.raises(PromptFileError, match=r"train-00002-of-00003.*no column 'prompt'"):
        read(tmp_path, ColumnRules())


def test_problems_of_files_name_them(tmp_path: Path) -> None:
    """The row of a file in a folder is a number that nothing else shows."""
    photos = tmp_path / "photos"
    make(photos, "a.png")
    (photos / "tiny\x1b[31m.png").write_bytes(png_header(8, 8))
    for name in ("c.png", "d.png"):
        (photos / name).write_text("no image " * 20)
    rules = PromptRules(service="remove-background")
    with pytest.raises(PromptFileError) as caught:
        estimate_run(PromptFile(photos, rules=CUT_OUT), rules, JobSettings(folder=tmp_path / "job"))
    text = str(caught.value)
    assert "rows 2 (c.png), 3 (d.png): image: given another kind of file" in text
    assert "row 4 (tiny .png): image: given 8 x 8 pixels" in text


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png_header(64, 64))
    except OSError:
        pytest.skip("the file system has no such names")
    (tmp_path / "new\nline.png").write_bytes(png_header(64, 64))
    bad, good = PromptFile(tmp_path, rules=ColumnRules(service="remove-background")).rows()
    assert bad == RowProblem(1, "the name b'caf\\xe9.png' is not valid UTF-8: rename the file")
    assert isinstance(good, Row)


async def test_an_input_that_changed_is_noticed(bench: Bench) -> None:
    photos = bench.folder / "photos"
    make(photos, "a.png", "b.png")
    rules = PromptRules(service="remove-background")

    def prompts() -> PromptFile:
        return PromptFile(str(photos), rules=CUT_OUT)

    async def run(*, replace_changed: bool = False) -> Summary:
        async with bench.client() as client:
            job = Job(
                JobSettings(folder=bench.out, replace_changed=replace_changed), prompts(), rules
            )
            return await job.run(client)

    assert (await run()).done == 2
    status = (photos / "a.png").stat()
    os.utime(photos / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert (await run()).skipped == 2, "the same bytes are the same"
    make(photos, "c.png")
    data = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(data[:-1] + b"!")
    with pytest.raises(PromptFileError, match=r"'b\.png' was made from other content"):
        estimate_run(prompts(), rules, JobSettings(folder=bench.out))
    with pytest.raises(PromptFileError, match=r"'b\.png' was made from other content"):
        await run()
    found = estimate_run(prompts(), rules, JobSettings(folder=bench.out, replace_changed=True))
    assert (found.new, found.there, found.changed) == (2, 1, 1)
    summary = await run(replace_changed=True)
    assert (summary.done, summary.skipped) == (2, 1)
    assert sorted(line["image"] for line in bench.lines()) == ["a.png", "b.png", "c.png"]


async def test_input_files_that_were_moved_are_not_bought_again(bench: Bench) -> None:
    photos = bench.folder / "photos"
    make(photos, "a.png", "b.png")
    rules = PromptRules(service="remove-background")

    async def run(*, change: bool = False) -> Summary:
        settings = JobSettings(folder=bench.out, change=change)
        async with bench.client() as client:
            return await Job(settings, PromptFile(photos, rules=CUT_OUT), rules).run(client)

    assert (await run()).done == 2
    make(photos, "c.png")
    (photos / "2024").mkdir()
    (photos / "a.png").rename(photos / "2024" / "a.png")
    told = "1 row would be bought again, for 5 credits: their input files had other names"
    with pytest.raises(PromptFileError, match=told):
        estimate_run(PromptFile(photos, rules=CUT_OUT), rules, JobSettings(folder=bench.out))
    with pytest.raises(PromptFileError, match=told):
        await run()
    (photos / "2024" / "a.png").rename(photos / "a.png")
    assert (await run()).done == 1, "c.png"
    (photos / "a.png").rename(photos / "d.png")
    assert (await run(change=True)).done == 1


async def test_prompts_for_the_same_file_may_change(bench: Bench) -> None:
    make(bench.folder, "a.png")
    row = {"image": "a.png", "service": "search-and-replace", "search_prompt": "a dog"}
    await bench.run(bench.write({**row, "prompt": "a fox"}))
    (bench.folder / "a.png").rename(bench.folder / "b.png")
    assert (await bench.run(bench.write({**row, "image": "b.png", "prompt": "a cat"}))).done == 1


async def test_a_table_that_did_not_change_is_read_again_when_a_file_of_it_did(
    bench: Bench,
) -> None:
    make(bench.folder, "a.png")
    path = bench.write({"image": "a.png", "service": "remove-background"})
    assert (await bench.run(path)).done == 1
    assert (await bench.run(path)).skipped == 1
    (bench.folder / "a.png").write_bytes(png_header(70, 70))
    summary = await bench.run(path)
    assert (summary.total, summary.done) == (1, 1)


@pytest.mark.parametrize("source", ["", "*.png"])
@pytest.mark.parametrize("lost", [False, True], ids=["whole", "ledger lost"])
async def test_the_results_of_a_job_are_no_input_of_its_next_run(
    bench: Bench, source: str, lost: bool
) -> None:
    """A job in the folder of its photos has a metadata file, as a data set has."""
    photos = bench.folder / "photos"
    make(photos, "a.png", "b.png")
    rules = PromptRules(service="remove-background")
    prompts = PromptFile(str(photos / source), rules=CUT_OUT)
    settings = JobSettings(folder=photos / "cut", outage_limit=0.0)
    for requests in (2, 0):
        async with bench.client() as client:
            summary = await Job(settings, prompts, rules).run(client)
        assert (summary.ending, summary.requests) == ("complete", requests)
        if lost:
            for file in (photos / "cut").glob("job.sqlite*"):
                file.unlink()


def test_an_export_below_a_folder_is_no_input(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "set/images/0.png", "set/.export/export.json")
    (tmp_path / "set/metadata.jsonl").write_text('{"file_name": "images/0.png"}\n')
    (tmp_path / "set/train.parquet").write_bytes(b"not looked at")
    assert names(read(tmp_path)) == ["a.png"]
    assert names(read(tmp_path / "set")) == ["images/0.png"], "it is one where it is asked for"


def test_a_pattern_chooses_parquet_files(tmp_path: Path) -> None:
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    image = (png_header(64, 64), "a.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name in ("train-0", "train-1", "test-0"):
        rows = [{"bytes": image[0] + name.encode(), "path": f"{name}.png"}]
        parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / f"{name}.parquet")
    found = read(tmp_path / "train-*.parquet")
    assert [row.metadata["image_path"] for row in found] == ["train-0.png", "train-1.png"]
