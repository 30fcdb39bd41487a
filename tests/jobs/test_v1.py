"""Requests of v1 in jobs: one image per row, weighted prompts, a price to count."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from stable_async import StabilityClient
from stable_async.cli.app import run
from stable_async.jobs import Job, JobSettings, PromptFile, PromptFileError, PromptRules
from stable_async.jobs.estimate import estimate_run
from tests import needs
from tests.raw_server import Connection, answer, raw_server
from tests.samples import sample_image

if TYPE_CHECKING:
    from pathlib import Path

SDXL = "engine_id=stable-diffusion-xl-1024-v1-0"
RULES = PromptRules(
    service="v1-text-to-image", set={"engine_id": "stable-diffusion-v1-6"}, price=0.5
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_a_table_is_made_estimated_reported_exported_and_rebuilt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    (tmp_path / "p.csv").write_text(
        "Prompt,Negative Prompt,width,height,cfg_scale,seed,label\n"
        "a fox,people,1024,1024,7,5,x\n"
        "a hare,,1152,896,,,y\n"
    )
    words = ["run", "p.csv", "--out", "out", "--service", "v1-text-to-image", "--set", SDXL]
    words += ["--sandbox"]
    assert run(["estimate", *words[1:2], *words[4:8]]) == 0
    assert "no source states" in capsys.readouterr().out
    for more in ([], ["--dry-run"]):
        assert run([*words, *more]) == 2
        assert "--price" in capsys.readouterr().err
    assert not (tmp_path / "out/metadata.jsonl").exists()
    words += ["--price", "0.5"]
    assert run(words) == 0
    made = {line["text"]: line for line in lines(tmp_path / "out")}
    fox, hare = made["a fox"], made["a hare"]
    assert (fox["negative_prompt"], fox["seed"], fox["label"]) == ("people", 5, "x")
    assert (hare["width"], hare["height"], hare["credits"]) == (1152, 896, 0.5)
    assert hare["seed"], "one is derived"
    assert run(["estimate", "p.csv", "--out", "out", *words[4:8], "--price", "0.5"]) == 0
    capsys.readouterr()
    assert run(["estimate", "p.csv", *words[4:8], "--price", "0.5"]) == 0
    assert "(assumed, as --price says: 1 credit)" in capsys.readouterr().out
    assert run(["report", "out"]) == 0
    assert '"assumed":["v1-text-to-image"]' in (tmp_path / "out/report.html").read_text()
    assert run(["export", "out", "--format", "imagefolder", "--to", "set"]) == 0
    assert "| 2 | 1.00 (assumed) |" in (tmp_path / "set/README.md").read_text()
    (tmp_path / "out/job.sqlite").unlink()
    assert run(words) == 0, "the ledger is rebuilt from the images"
    assert len(lines(tmp_path / "out")) == 2


def test_photos_and_masks_are_taken_and_weights_are_kept(tmp_path: Path) -> None:
    pillow = needs.module("PIL.Image")
    for name in ("a.png", "mask.png"):
        pillow.new("RGB", (128, 128), "teal").save(tmp_path / name)
    prompts = [{"text": "a fox", "weight": 1}, {"text": "snow", "weight": 0.5}]
    rows = [
        {"init_image": "a.png", "prompt": "a fox", "image_strength": 0.2},
        {"init_image": "a.png", "text_prompts": prompts},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--set", "engine_id=stable-diffusion-v1-6", "--price", "1", "--sandbox"]
    assert run(["run", "p.jsonl", "--out", "a", "--service", "v1-image-to-image", *common]) == 0
    assert {line["text"] for line in lines(tmp_path / "a")} == {"a fox", "a fox, snow"}
    (tmp_path / "a/job.sqlite").unlink()
    assert run(["run", "p.jsonl", "--out", "a", "--service", "v1-image-to-image", *common]) == 0
    (tmp_path / "p.csv").write_text(
        "init_image,mask_image,mask_source,text_prompts\n"
        f'a.png,mask.png,MASK_IMAGE_WHITE,"{json.dumps(prompts).replace(chr(34), chr(34) * 2)}"\n'
    )
    assert run(["run", "p.csv", "--out", "b", "--service", "v1-masking", *common]) == 0
    assert [line["text_prompts"] for line in lines(tmp_path / "b")] == [prompts]


@pytest.mark.parametrize(
    ("header", "cells", "says"),
    [
        ("prompt,samples", "x,4", "samples: given 4; allowed: 1"),
        (
            "prompt,text_prompts",
            'x,"[{""text"":""y""}]"',
            "text_prompts: given; allowed: text_prompts or prompt, not both",
        ),
        ("negative_prompt,prompt", "x,", "prompt: not given; allowed: prompt or text_prompts"),
        ("text_prompts", "a fox", "text_prompts: given 5 characters; allowed: a list"),
        ("caption", "x", "no column 'prompt'"),
        ("prompt,samples,num_images", "x,1,2", "kept"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_paid(
    tmp_path: Path, header: str, cells: str, says: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n{cells}\n")
    rules = PromptRules(service=RULES.service, set=RULES.set, price=0.5)
    words = ["run", "p.csv", "--out", "o", "--service", "v1-text-to-image", "--dry-run"]
    words += ["--set", "engine_id=stable-diffusion-v1-6", "--price", "0.5"]
    if says == "kept":
        assert run(words) == 0
        return
    assert run(words) == 2
    from stable_async.jobs.columns import ColumnRules

    columns = ColumnRules(service=rules.service, given=frozenset(rules.set))
    with pytest.raises(PromptFileError) as caught:
        estimate_run(PromptFile(str(path), rules=columns), rules)
    assert says in str(caught.value)


def test_rows_that_name_v1_need_a_price_as_well(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {"prompt": "x", "service": "v1-text-to-image", "engine_id": "stable-diffusion-v1-6"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(PromptFileError, match="--price CREDITS"):
        estimate_run(PromptFile(str(path)), PromptRules())
    assert estimate_run(PromptFile(str(path)), PromptRules(price=2.0)).credits == 2.0


def test_rows_that_are_not_sent_take_the_new_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    (tmp_path / "p.txt").write_text("a fox\na hare\na hound\n")
    words = ["run", "p.txt", "--out", "out", "--service", "v1-text-to-image", "--set", SDXL]
    words += ["--sandbox"]

    def credits_of(*more: str) -> float:
        capsys.readouterr()
        assert run([*words, "--json", *more]) in {0, 3}
        return float(json.loads(capsys.readouterr().out)["credits"])

    assert credits_of("--price", "0.5", "--limit", "1") == 0.5
    assert run([*words, "--price", "2"]) == 2
    assert "price was 0.5 and is 2" in capsys.readouterr().err
    assert credits_of("--price", "0.5", "--dry-run") == 1
    assert credits_of("--price", "2", "--change", "--dry-run") == 4
    assert credits_of("--price", "2", "--change", "--limit", "2") == 2
    assert credits_of("--price", "3", "--change", "--no-check") == 3
    assert sorted(str(line["credits"]) for line in lines(tmp_path / "out")) == ["0.5", "2.0", "3.0"]


def artifacts(*, bare: bool = False, reason: str = "SUCCESS", data: bytes = b"") -> bytes:
    image = base64.b64encode(data or sample_image()).decode()
    found = [{"base64": image, "seed": 77, "finishReason": reason}]
    return json.dumps(found if bare else {"artifacts": found}).encode()


@pytest.mark.parametrize("bare", [False, True])
async def test_an_answer_in_json_is_kept_though_bytes_were_asked_for(
    tmp_path: Path, bare: bool
) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        body = artifacts(bare=bare, reason="CONTENT_FILTERED")
        await connection.send(answer(body, content_type="application/json"))

    (tmp_path / "p.txt").write_text("a fox\n")
    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, quota=None) as client,
    ):
        source = PromptFile("p.txt")
        summary = await Job(JobSettings(folder=tmp_path / "out"), source, RULES).run(client)
    assert summary.filtered == 1
    assert summary.spent == 0.5
    (line,) = lines(tmp_path / "out")
    assert (line["seed"], line["finish_reason"]) == (77, "CONTENT_FILTERED")
    assert (tmp_path / "out" / str(line["file_name"])).read_bytes() == sample_image()


@pytest.mark.parametrize("form", ["bytes", "JSON", "JSON without an image"])
async def test_a_generation_that_failed_is_in_doubt_and_says_why(tmp_path: Path, form: str) -> None:
    """The API's finish reason decides, not whether bytes came; several in a row are an outage."""
    image = base64.b64encode(sample_image()).decode() if form == "JSON" else ""
    body = json.dumps({"artifacts": [{"base64": image, "seed": 1, "finishReason": "ERROR"}]})
    reply = answer(body.encode(), content_type="application/json")
    if form == "bytes":
        reply = answer(sample_image(), headers="Finish-Reason: ERROR\r\nSeed: 1\r\n")

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(reply)

    (tmp_path / "p.txt").write_text("".join(f"fox {number}\n" for number in range(8)))
    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, quota=None) as client,
    ):
        settings = JobSettings(folder=tmp_path / "out", max_in_flight=1, outage_limit=0.0)
        summary = await Job(settings, PromptFile("p.txt"), RULES).run(client)
    assert (summary.ending, summary.done) == ("stopped", 0)
    assert (summary.in_doubt, summary.credits_in_doubt) == (3, 1.5)
    assert "failed (finish reason ERROR)" in str(summary.error)
    failures = (tmp_path / "out/failures.jsonl").read_text().splitlines()
    assert all("failed (finish reason ERROR)" in line for line in failures)
    assert not [*(tmp_path / "out/images").glob("*/*")]
