"""Answers: the order of checks, envelopes, headers, seeds, sizes, credits, the quota."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING

import aiohttp
import pytest
from PIL import Image, ImageChops

from stable_async.sandbox import Sandbox, SandboxSettings
from stable_async.sandbox.service import Service
from stable_async.sandbox.spec.fields import Parameters
from tests.sandbox.support import BOUNDARY, OPERATIONS, Caller, File, multipart, sample_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CORE = OPERATIONS["generate_core"]
SD3 = OPERATIONS["generate_sd3"]


@pytest.fixture
async def strict() -> AsyncIterator[tuple[Sandbox, Caller]]:
    """A sandbox with a small quota, one key and few credits."""
    settings = SandboxSettings(
        requests=3, window=5.0, counting="log", api_keys=frozenset({"sk-one"}), credits=7.0
    )
    async with (
        Sandbox(settings) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        yield sandbox, Caller(session, sandbox.url, {"authorization": "Bearer sk-one"})


async def test_bad_parameters_are_told_before_a_bad_key_and_all_at_once(caller: Caller) -> None:
    reply = await caller.core("", seed="-1", aspect_ratio="4:3", authorization="Bearer invalid")
    assert reply.status == 400
    assert reply.json["name"] == "bad_request"
    assert [error.partition(":")[0] for error in reply.errors] == ["prompt", "aspect_ratio", "seed"]
    path = CORE.path
    bad_key = await caller.post(path, {"prompt": "x"}, authorization="Bearer invalid")
    assert (bad_key.status, bad_key.errors) == (
        401,
        ["authorization: invalid or missing header value"],
    )
    assert (await caller.post(path, {"prompt": "x"}, authorization="")).status == 401


async def test_an_absent_prompt_is_worded_as_the_service_words_it(caller: Caller) -> None:
    assert (await caller.post(CORE.path, {"seed": "1"})).errors == ["prompt: required"]


async def test_a_v2_error_has_its_three_keys_and_the_request_id(caller: Caller) -> None:
    reply = await caller.core("")
    assert reply.json.keys() == {"id", "name", "errors"}
    assert reply.headers["x-request-id"] == reply.json["id"]
    assert reply.headers["Content-Type"] == "application/json"


async def test_urlencoded_forms_and_json_are_refused(caller: Caller) -> None:
    for content_type in ("application/x-www-form-urlencoded", "application/json"):
        reply = await caller.send("POST", CORE.path, b"prompt=x", {"content-type": content_type})
        assert (reply.status, reply.errors) == (400, ["content-type: must be multipart/form-data"])


async def test_the_key_counts_with_and_without_bearer_and_under_a_mirrors_prefix(
    sandbox: Sandbox, caller: Caller
) -> None:
    for value in ("Bearer sk-x", "bearer sk-x", "sk-x"):
        assert (await caller.post(CORE.path, {"prompt": "x"}, authorization=value)).status == 200
    assert (await caller.post(f"/sd{CORE.path}", {"prompt": "x"})).status == 200
    assert len({record.key for record in sandbox.log[:3]}) == 1
    assert "sk-x" not in repr(list(sandbox.log))


async def test_older_models_are_taken_from_mirrors_clients_only(caller: Caller) -> None:
    fields = {"prompt": "x", "model": "sd3-large"}
    assert (await caller.post(SD3.path, fields)).status == 400
    assert (await caller.post(f"/sd{SD3.path}", fields)).status == 200


async def test_paths_that_do_not_exist_are_not_found(caller: Caller) -> None:
    for method, path in (("GET", CORE.path), ("POST", "/v2beta/image-to-video"), ("GET", "/x")):
        assert (await caller.send(method, path)).status == 404
    assert (await caller.send("GET", "/v1/nothing")).status == 404
    assert (await caller.send("GET", "/v1/nothing", headers={"authorization": ""})).status == 401


async def test_the_same_seed_and_parameters_give_the_same_bytes(caller: Caller) -> None:
    one = await caller.core(seed="7", style_preset="anime")
    again = await caller.core(seed="7", style_preset="anime")
    others = [
        await caller.core(seed="8", style_preset="anime"),
        await caller.core(seed="7", style_preset="origami"),
        await caller.core("another", seed="7", style_preset="anime"),
    ]
    assert one.headers["seed"] == "7"
    assert one.body == again.body
    assert len({reply.body for reply in (one, *others)}) == 4


async def test_a_seed_is_drawn_when_there_is_none_and_makes_the_same_image(
    caller: Caller,
) -> None:
    for fields in ({}, {"seed": "0"}):
        drawn = await caller.core(**fields)
        assert int(drawn.headers["seed"]) > 0
        assert (await caller.core(seed=drawn.headers["seed"])).body == drawn.body


async def test_json_answers_carry_the_same_image_and_no_headers(caller: Caller) -> None:
    plain = await caller.core(seed="7")
    reply = await caller.post(
        CORE.path,
        {"prompt": "a lighthouse", "output_format": "jpeg", "seed": "7"},
        accept="application/json",
    )
    assert reply.headers["Content-Type"] == "application/json; type=image/jpeg"
    assert not {"seed", "finish-reason"} & {name.lower() for name in reply.headers}
    assert base64.b64decode(str(reply.json["image"])) == plain.body
    assert (reply.json["seed"], reply.json["finish_reason"]) == (7, "SUCCESS")


@pytest.mark.parametrize(
    ("operation", "fields", "size"),
    [
        ("generate_core", {}, (1536, 1536)),
        ("generate_core", {"aspect_ratio": "16:9"}, (2016, 1152)),
        ("generate_ultra", {}, (1024, 1024)),
        ("generate_ultra", {"aspect_ratio": "16:9"}, (1344, 768)),
        ("generate_sd3", {"aspect_ratio": "9:21"}, (640, 1536)),
        ("control_style", {"aspect_ratio": "16:9"}, (1365, 768)),
    ],
)
async def test_images_have_the_size_of_their_aspect_ratio(
    caller: Caller, operation: str, fields: dict[str, str], size: tuple[int, int]
) -> None:
    reply = await caller.operate(OPERATIONS[operation], fields)
    assert reply.size == size


@pytest.mark.parametrize(
    ("operation", "fields", "given", "size"),
    [
        ("upscale_fast", {}, (96, 64), (384, 256)),
        ("upscale_conservative", {}, (128, 128), (3112, 3112)),
        ("edit_outpaint", {"left": "10", "up": "20", "down": "3"}, (96, 64), (106, 87)),
        ("edit_erase", {}, (96, 64), (96, 64)),
        ("edit_search_and_recolor", {}, (96, 64), (96, 64)),
        ("control_structure", {}, (96, 64), (96, 64)),
        ("control_style_transfer", {}, (128, 64), (1448, 724)),
        ("generate_ultra", {"strength": "0.5"}, (96, 64), (1024, 1024)),
        ("generate_sd3", {"strength": "0.5", "mode": "image-to-image"}, (96, 64), (1216, 832)),
        ("v1_image_to_image_upscale", {"width": "512"}, (96, 64), (512, 341)),
    ],
)
async def test_images_made_from_images_have_the_size_that_was_seen(
    caller: Caller,
    operation: str,
    fields: dict[str, str],
    given: tuple[int, int],
    size: tuple[int, int],
) -> None:
    name = "init_image" if operation == "control_style_transfer" else "image"
    changes: dict[str, str | File | None] = {**fields, name: ("in.png", sample_image(*given))}
    if operation != "upscale_fast":
        changes["prompt"] = "x"
    accept = "image/png" if operation.startswith("v1") else "image/*"
    assert (await caller.operate(OPERATIONS[operation], changes, accept=accept)).size == size


async def test_a_removed_background_is_transparent_and_the_subject_is_not(caller: Caller) -> None:
    for output_format in ("png", "webp"):
        reply = await caller.operate(
            OPERATIONS["edit_remove_background"], {"output_format": output_format}
        )
        image = Image.open(io.BytesIO(reply.body))
        assert image.mode == "RGBA"
        alpha = image.getchannel("A")
        assert (alpha.getpixel((0, 0)), alpha.getpixel((48, 32))) == (0, 255)


async def test_outpainting_leaves_the_image_as_it_is(caller: Caller) -> None:
    changes = {"left": "30", "down": "80", "output_format": "png"}
    reply = await caller.operate(OPERATIONS["edit_outpaint"], changes)
    inner = Image.open(io.BytesIO(reply.body)).crop((30, 0, 126, 64))
    given = Image.open(io.BytesIO(sample_image()))
    assert ImageChops.difference(inner, given).getbbox() is None


async def test_inpainting_changes_only_what_the_mask_shows_in_white(caller: Caller) -> None:
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (0, 0, 40, 40))
    out = io.BytesIO()
    mask.save(out, "PNG")
    reply = await caller.operate(
        OPERATIONS["edit_inpaint"], {"mask": ("mask.png", out.getvalue()), "prompt": "the sea"}
    )
    changed = ImageChops.difference(
        Image.open(io.BytesIO(reply.body)), Image.open(io.BytesIO(sample_image()))
    ).getbbox()
    assert changed is not None
    assert changed[2] <= 40
    assert changed[3] <= 40


async def test_an_image_with_a_good_header_and_broken_data_is_refused_and_not_charged(
    sandbox: Sandbox, caller: Caller
) -> None:
    broken = sample_image(800, 800)[:-200]
    reply = await caller.operate(OPERATIONS["upscale_fast"], {"image": ("in.png", broken)})
    assert (reply.status, reply.errors) == (400, ["image: could not be read as an image"])
    assert sandbox.statistics.credits_spent == 0


async def test_a_decompression_bomb_is_refused_by_its_header(caller: Caller) -> None:
    head = sample_image(64, 64)
    # The header's width and height become 60,000 each; its checksum is not looked at by readers.
    bomb = head[:16] + (60_000).to_bytes(4, "big") * 2 + head[24:]
    for operation, name in (("generate_ultra", "image"), ("edit_erase", "image")):
        changes: dict[str, str | File | None] = {name: ("in.png", bomb), "strength": "0.5"}
        reply = await caller.operate(OPERATIONS[operation], changes)
        assert reply.status == 400
        assert reply.body.decode().count("image: ") == 1


@pytest.mark.parametrize(
    ("operation", "fields", "price"),
    [
        ("generate_core", {}, 3),
        ("generate_sd3", {}, 6.5),
        ("generate_sd3", {"model": "sd3.5-flash"}, 2.5),
        ("stable_audio_2_text_to_audio", {}, 20),
        ("stable_audio_2_text_to_audio", {"steps": "100"}, 23),
        ("stable_audio_2_text_to_audio", {"steps": "33"}, 18.98),
        ("stable_audio_2_text_to_audio", {"model": "stable-audio-2.5"}, 20),
        ("v2alpha_inpaint", {"mode": "mask"}, 3),
        ("v2alpha_inpaint", {"mode": "search", "search_prompt": "a dog"}, 4),
        ("v1_text_to_image", {}, 0),
    ],
)
async def test_the_balance_falls_by_the_list_price(
    sandbox: Sandbox, caller: Caller, operation: str, fields: dict[str, str], price: float
) -> None:
    before = (await caller.send("GET", "/v1/user/balance")).json["credits"]
    assert (await caller.operate(OPERATIONS[operation], fields)).status == 200
    after = (await caller.send("GET", "/v1/user/balance")).json["credits"]
    assert before == 1_000_000
    assert after == pytest.approx(1_000_000 - price, abs=1e-6)
    assert sandbox.log[1].credits == price
    assert sandbox.statistics.credits_spent == price


async def test_too_few_credits_are_402_before_moderation_and_after_the_key(
    strict: tuple[Sandbox, Caller],
) -> None:
    sandbox, caller = strict
    sandbox.exhaust_credits()
    reply = await caller.core("sandbox:moderated")
    assert (reply.status, reply.json["name"]) == (402, "payment_required")
    assert (await caller.core(authorization="Bearer sk-two")).status == 401
    sandbox.clear()
    assert (await caller.core()).status == 200


async def test_a_breach_is_429_with_the_documented_words_for_that_key_only(
    strict: tuple[Sandbox, Caller],
) -> None:
    sandbox, caller = strict
    # What fails counts like what succeeds.
    statuses = [(await caller.core(prompt)).status for prompt in ("", "x", "", "x")]
    assert statuses == [400, 200, 400, 429]
    reply = await caller.core()
    assert reply.json == {
        "id": "rate_limit_exceeded",
        "name": "rate_limit_exceeded",
        "errors": [
            (
                "You have exceeded the rate limit of 3 requests within a 5 second period, and have "
                "been timed out for 60 seconds."
            )
        ],
    }
    assert "retry-after" not in {name.lower() for name in reply.headers}
    assert (await caller.core(authorization="Bearer sk-two")).status == 401
    statistics = sandbox.statistics
    assert (statistics.requests, statistics.refused) == (6, 2)
    assert statistics.answered == {200: 1, 400: 2, 401: 1, 429: 2}
    assert statistics.most_in_window["log"] == 5


async def test_the_page_and_its_figures_do_not_count(strict: tuple[Sandbox, Caller]) -> None:
    sandbox, caller = strict
    for path in ("/", "/_sandbox/state", "/favicon.ico") * 3:
        assert (await caller.send("GET", path)).status < 300
    assert sandbox.statistics.requests == 0
    assert (await caller.core()).status == 200


async def test_log_records_hold_what_was_sent(sandbox: Sandbox, caller: Caller) -> None:
    await caller.operate(
        OPERATIONS["edit_erase"],
        {"image": ('a "b".png', sample_image()), "unknown": "kept"},
        stability_client_id="my-app",
    )
    record = sandbox.log[-1]
    assert (record.method, record.path) == ("POST", OPERATIONS["edit_erase"].path)
    assert (record.operation, record.status, record.credits) == ("edit_erase", 200, 5)
    assert record.fields == {"unknown": "kept"}
    assert record.files["image"].filename == 'a "b".png'
    assert record.files["image"].content == sample_image()
    assert record.headers["stability-client-id"] == "my-app"
    assert record.duration is not None
    assert record.response_bytes > 0


async def test_client_headers_have_a_greatest_length(caller: Caller) -> None:
    assert (await caller.core(stability_client_id="x" * 256)).status == 200
    reply = await caller.core(stability_client_user_id="x" * 257)
    assert reply.errors == ["stability-client-user-id: must be at most 256 characters long"]


@pytest.mark.parametrize(
    ("word", "status", "name", "charged"),
    [
        ("sandbox:moderated", 403, "content_moderation", 0),
        ("sandbox:language", 422, "invalid_language", 0),
        ("sandbox:public-figure", 422, "public_figure", 0),
        ("SANDBOX-ERROR", 500, "internal_error", 0),
    ],
)
async def test_trigger_words_refuse_and_cost_nothing(
    sandbox: Sandbox, caller: Caller, word: str, status: int, name: str, charged: float
) -> None:
    reply = await caller.core(f"a boat, {word}")
    assert (reply.status, reply.json["name"]) == (status, name)
    assert sandbox.statistics.credits_spent == charged
    assert (await caller.core("a boat", negative_prompt=word)).status == 200


async def test_a_filtered_image_is_blurred_billed_and_a_success(
    sandbox: Sandbox, caller: Caller
) -> None:
    reply = await caller.core("a boat, sandbox:filtered", seed="7")
    assert (reply.status, reply.headers["finish-reason"]) == (200, "CONTENT_FILTERED")
    assert sandbox.statistics.credits_spent == 3
    assert sandbox.log[-1].finish_reason == "CONTENT_FILTERED"
    # Nothing sharp is left in it: neighbouring pixels hardly differ.
    grey = Image.open(io.BytesIO(reply.body)).convert("L")
    shifted = ImageChops.difference(grey, ImageChops.offset(grey, 1, 0)).crop((1, 0, *grey.size))
    assert not any(shifted.histogram()[24:])


async def test_the_name_of_a_file_triggers_as_well(caller: Caller) -> None:
    reply = await caller.operate(
        OPERATIONS["upscale_fast"], {"image": ("sandbox-moderated.png", sample_image())}
    )
    assert reply.status == 403


async def test_copyrighted_content_is_for_audio_only(caller: Caller) -> None:
    word = "sandbox:copyrighted"
    reply = await caller.operate(OPERATIONS["stable_audio_2_text_to_audio"], {"prompt": word})
    assert (reply.status, reply.json["name"]) == (422, "copyrighted_content")
    assert (await caller.core(word)).status == 200


async def test_the_part_called_none_is_ignored(sandbox: Sandbox, caller: Caller) -> None:
    body = multipart({"prompt": "x", "output_format": "jpeg"}, {"none": ("none", b"")})
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    reply = await caller.send("POST", CORE.path, body, {"content-type": content_type})
    assert reply.status == 200
    assert not sandbox.log[-1].files


@pytest.mark.parametrize(
    ("operation", "good", "bad", "field"),
    [
        ("generate_ultra", {"strength": "0.5"}, {"strength": None}, "strength"),
        ("generate_sd3", {"mode": "image-to-image"}, {"mode": None}, "image"),
        ("generate_sd3", {"mode": "image-to-image"}, {"strength": None}, "strength"),
        ("generate_sd3", {"mode": "image-to-image"}, {"image": None}, "image"),
        ("generate_sd3", {"mode": "image-to-image"}, {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("edit_outpaint", {"up": "1"}, {"up": "0"}, "body"),
        ("edit_replace_background_and_relight", {}, {"background_prompt": None}, "body"),
        (
            "edit_replace_background_and_relight",
            {"light_source_strength": "1", "light_source_direction": "left"},
            {"light_source_direction": None},
            "light_source_strength",
        ),
        ("v1_image_to_image_upscale", {"width": "512"}, {"height": "512"}, "width"),
        (
            "v1_image_to_image",
            {"image_strength": "0.5"},
            {"init_image_mode": "STEP_SCHEDULE"},
            "image_strength",
        ),
    ],
)
async def test_rules_across_fields_hold_both_ways(
    caller: Caller,
    operation: str,
    good: dict[str, str],
    bad: dict[str, str | None],
    field: str,
) -> None:
    base: dict[str, str | File | None] = {**good}
    if operation.startswith("generate"):
        base |= {"image": ("in.png", sample_image()), "strength": "0.5"}
    if operation == "edit_outpaint":
        base["left"] = None
    assert (await caller.operate(OPERATIONS[operation], base)).status == 200
    reply = await caller.operate(OPERATIONS[operation], {**base, **bad})
    assert reply.status == 400
    assert re.search(rf'["; ]{field}: ', reply.body.decode())


async def test_observed_latencies_are_those_that_were_seen_give_or_take() -> None:
    service = Service(SandboxSettings(latency="observed"))
    for model, seen in (("sd3.5-flash", 3.4), ("sd3.5-medium", 5.4), ("sd3.5-large", 10.6)):
        times = [
            service._latency(SD3, Parameters(given={"model": model}), service.account)
            for _ in range(20)
        ]
        assert all(0.85 * seen <= latency <= 1.15 * seen for latency in times)
        assert len(set(times)) == 20
    untimed = OPERATIONS["stable_audio_text_to_audio"]
    assert service._latency(untimed, Parameters(), service.account) >= 8.5
    service.close()


async def test_audio_may_be_larger_and_says_its_own_limit(caller: Caller) -> None:
    path = OPERATIONS["stable_audio_2_inpaint"].path
    content_type = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    for size, said in ((11_000_000, 400), (50_000_001, 413)):
        reply = await caller.send("POST", path, b"x" * size, content_type)
        assert reply.status == said
    assert reply.errors == ["body: payloads cannot be larger than 50MB in size"]
