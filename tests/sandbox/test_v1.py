"""The legacy API: engines, its own errors, JSON bodies, several artifacts."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from tests.sandbox.support import KEY, OPERATIONS, Caller, File, sample_image

TEXT = OPERATIONS["v1_text_to_image"]
SDXL = "/v1/generation/stable-diffusion-xl-1024-v1-0/text-to-image"


async def ask(
    caller: Caller, path: str, fields: dict[str, object], accept: str = ""
) -> tuple[int, dict[str, object]]:
    body = json.dumps({"text_prompts": [{"text": "a boat"}], **fields}).encode()
    headers = {"content-type": "application/json", "accept": accept}
    reply = await caller.send("POST", path, body, headers)
    return reply.status, reply.json


async def test_the_key_is_looked_at_first_and_echoed(caller: Caller) -> None:
    reply = await caller.send("POST", SDXL, b"{}", {"authorization": "Bearer sk-invalid-123"})
    assert reply.status == 401
    assert "sk-invalid-123" in str(reply.json["message"])
    reply = await caller.send("POST", SDXL, b"{}", {"authorization": ""})
    assert (reply.status, reply.json["message"]) == (401, "missing authorization header")
    assert reply.json.keys() == {"id", "name", "message"}


async def test_an_engine_that_does_not_exist_is_not_found(caller: Caller) -> None:
    for engine in ("some-fake-engine", "esrgan-v1-x2plus"):
        status, reply = await ask(caller, f"/v1/generation/{engine}/text-to-image", {})
        assert (status, reply["name"]) == (404, "not_found")
        assert engine in str(reply["message"])


async def test_samples_give_as_many_artifacts_with_seeds_of_their_own(caller: Caller) -> None:
    status, reply = await ask(caller, SDXL, {"samples": 3, "seed": 7})
    artifacts = reply["artifacts"]
    assert status == 200
    assert isinstance(artifacts, list)
    assert [artifact["seed"] for artifact in artifacts] == [7, 8, 9]
    images = {artifact["base64"] for artifact in artifacts}
    assert len(images) == 3
    image = Image.open(io.BytesIO(base64.b64decode(artifacts[0]["base64"])))
    assert (image.format, image.size) == ("PNG", (1024, 1024))


async def test_one_sample_comes_as_png_with_headers(caller: Caller) -> None:
    reply = await caller.operate(TEXT, {"seed": "7", "width": "576"}, accept="image/png")
    assert reply.size == (576, 512)
    assert (reply.headers["Seed"], reply.headers["Finish-Reason"]) == ("7", "SUCCESS")


XL, BETA = "stable-diffusion-xl-1024-v1-0", "stable-diffusion-xl-beta-v2-2-2"
V15, V16 = "stable-diffusion-v1-5", "stable-diffusion-v1-6"
V512, V768 = "stable-diffusion-512-v2-1", "stable-diffusion-768-v2-1"


@pytest.mark.parametrize(
    ("engine", "fields", "name"),
    [
        (XL, {"width": 512, "height": 512}, "invalid_sdxl_v1_dimensions"),
        (XL, {"width": 1000, "height": 1024}, "invalid_height_or_width"),
        (XL, {"steps": 51}, "bad_request"),
        (BETA, {"width": 576, "height": 576}, "invalid_sdxl_v222_dimensions"),
        (BETA, {"width": 960, "height": 512}, "invalid_sdxl_v222_dimensions"),
        (V16, {"width": 256, "height": 512}, "bad_request"),
        (V512, {"width": 256, "height": 512}, "invalid_pixel_count"),
        (V768, {"width": 1088, "height": 1024}, "invalid_pixel_count"),
        (V16, {"text_prompts": [{"text": "sandbox:moderated"}]}, "invalid_prompts"),
        (V16, {"text_prompts": "x"}, "bad_request"),
        (V16, {"text_prompts": [{"weight": 1}]}, "bad_request"),
        (V16, {"text_prompts": [{"text": "x", "weight": "y"}]}, "bad_request"),
        (V16, {"text_prompts": [{"text": "x" * 2001}]}, "bad_request"),
        (V16, {"cfg_scale": "7"}, "bad_request"),
        (V16, {"sampler": 7}, "bad_request"),
        (V16, {"extras": []}, "bad_request"),
    ],
)
async def test_what_v1_refuses_has_v1s_names(
    caller: Caller, engine: str, fields: dict[str, object], name: str
) -> None:
    status, reply = await ask(caller, f"/v1/generation/{engine}/text-to-image", fields)
    assert (status, reply["name"]) == (400, name)


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        (XL, {"width": 1536, "height": 640, "steps": 50}),
        (BETA, {"width": 896, "height": 512}),
        (V16, {"width": 320, "height": 320}),
        (V768, {}),
        (V15, {"steps": 150, "extras": {"a": 1}, "seed": None}),
        (V15, {"text_prompts": [{"text": "x", "weight": -1.5}, {"text": "y"}]}),
    ],
)
async def test_what_engines_make_is_made(
    caller: Caller, engine: str, fields: dict[str, object]
) -> None:
    assert (await ask(caller, f"/v1/generation/{engine}/text-to-image", fields))[0] == 200


async def test_several_samples_need_json(caller: Caller) -> None:
    status, reply = await ask(caller, SDXL, {"samples": 2}, "image/png")
    assert (status, reply["name"]) == (400, "invalid_samples")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b"1" * 2_000_000])
async def test_a_body_that_is_no_json_object_is_refused(caller: Caller, body: bytes) -> None:
    reply = await caller.send("POST", SDXL, body, {"content-type": "application/json"})
    assert reply.status == 400


async def test_masks_are_held_to_the_image(caller: Caller) -> None:
    masking = OPERATIONS["v1_image_to_image_masking"]
    masks: list[tuple[File | None, str]] = [
        (None, "invalid_mask_image"),
        (("m.png", sample_image(32, 32)), "invalid_image_dimensions"),
        (("m.png", b"GIF89a"), "invalid_mime_type"),
    ]
    for mask, name in masks:
        reply = await caller.operate(masking, {"mask_image": mask})
        assert (reply.status, reply.json["name"]) == (400, name)
    alpha = {"mask_source": "INIT_IMAGE_ALPHA", "mask_image": None}
    assert (await caller.operate(masking, alpha)).status == 200
    assert (await caller.operate(masking, {"mask_source": "MASK_IMAGE_BLACK"})).status == 200


async def test_an_upscale_of_too_many_pixels_is_refused(caller: Caller) -> None:
    upscale = OPERATIONS["v1_image_to_image_upscale"]
    for side, status in ((1024, 200), (1025, 400)):
        image = ("in.png", sample_image(side, side))
        assert (await caller.operate(upscale, {"image": image})).status == status
    reply = await caller.operate(upscale, {"image": ("in.png", sample_image()), "width": "4096"})
    assert reply.json["name"] == "invalid_pixel_count"


async def test_prompts_of_forms_need_not_be_sequential(caller: Caller) -> None:
    changes = {"text_prompts[7][text]": "a boat", "text_prompts[7][weight]": "-0.5"}
    assert (await caller.operate(OPERATIONS["v1_image_to_image"], changes)).status == 200
    orphan = await caller.operate(OPERATIONS["v1_image_to_image"], {"text_prompts[3][weight]": "1"})
    assert orphan.status == 400


async def test_account_and_engines_have_their_documented_keys(caller: Caller) -> None:
    account = (await caller.send("GET", "/v1/user/account")).json
    assert account.keys() >= {"id", "email", "organizations"}
    engines = json.loads((await caller.send("GET", "/v1/engines/list")).body)
    assert {engine["type"] for engine in engines} == {"PICTURE"}
    assert all(engine.keys() == {"id", "name", "description", "type"} for engine in engines)
    assert (await caller.send("GET", "/v1/engines/list", headers={"accept": "*/*"})).status == 200
    assert KEY not in str(account)
