"""A check, both ways, for every sentence that the facts have as a rule of an operation.

What the sentence says is refused or not covered is put to both sides; where the two differ on
purpose, the check says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stable_async.transport import polling
from tests.conformance.facts import ABSENT, AUDIO, IMAGE, OTHER_IMAGE, facts, smallest
from tests.conformance.harness import build
from tests.samples import png_header, sample_image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.conformance.harness import Harness

    Rule = Callable[[Harness, str], Awaitable[None]]

__all__ = ["RULES"]

TRANSPARENT = sample_image(mode="RGBA")
IMAGE_TO_IMAGE: dict[str, Any] = {"mode": "image-to-image", "image": IMAGE, "strength": 0.5}
SUBMITS = {
    "results": "edit_replace_background_and_relight",
    "audio_results": ("stable_audio_text_to_audio"),
    "upscale_creative_result": "upscale_creative",
}


# generate


async def image_needs_strength(h: Harness, operation: str) -> None:
    await h.taken(operation, {"image": IMAGE, "strength": 0.5})
    await h.refused(operation, {"image": IMAGE}, "strength")


async def strength_without_image(h: Harness, operation: str) -> None:
    # Not documented: the client refuses what would pay for a field without effect.
    await h.refused(operation, {"strength": 0.5}, "strength", wire=False)
    await h.taken(operation, {"strength": 0.5}, client=False)


async def text_to_image_needs_a_prompt_only(h: Harness, operation: str) -> None:
    await h.taken(operation, {})
    await h.taken(operation, {"mode": "text-to-image"})
    await h.refused(operation, {"prompt": ABSENT}, "prompt")


async def image_to_image_needs_image_and_strength(h: Harness, operation: str) -> None:
    await h.taken(operation, IMAGE_TO_IMAGE)
    for name in ("prompt", "image", "strength"):
        await h.refused(operation, {**IMAGE_TO_IMAGE, name: ABSENT}, name)


async def image_needs_image_to_image(h: Harness, operation: str) -> None:
    for name in ("image", "strength"):
        for mode in (ABSENT, "text-to-image"):
            await h.refused(operation, {"mode": mode, name: IMAGE_TO_IMAGE[name]}, name)


async def aspect_ratio_needs_text_to_image(h: Harness, operation: str) -> None:
    await h.taken(operation, {"aspect_ratio": "16:9"})
    await h.refused(operation, {**IMAGE_TO_IMAGE, "aspect_ratio": "16:9"}, "aspect_ratio")


# upscale, edit and control


async def prompt_is_required(h: Harness, operation: str) -> None:
    await h.refused(operation, {"prompt": ABSENT}, "prompt")


async def mask_comes_from_alpha(h: Harness, operation: str) -> None:
    await h.taken(operation, {"image": TRANSPARENT, "mask": ABSENT})


async def mask_wins_over_alpha(h: Harness, operation: str) -> None:
    await h.taken(operation, {"image": TRANSPARENT, "mask": IMAGE})


async def mask_of_another_size(h: Harness, operation: str) -> None:
    await h.taken(operation, {"mask": OTHER_IMAGE})


async def neither_mask_nor_alpha(h: Harness, operation: str) -> None:
    await h.taken(operation, {"mask": ABSENT})


async def erase_has_no_prompt(h: Harness, operation: str) -> None:
    await h.taken(operation, {})
    await h.refused(operation, {"prompt": "x"}, "prompt", wire=False)


async def some_direction(h: Harness, operation: str) -> None:
    none = {"left": 0, "right": 0, "up": 0, "down": 0}
    await h.refused(operation, none)
    await h.refused(operation, {"left": ABSENT})
    for name in none:
        await h.taken(operation, {**none, name: 1})


async def directions_may_exceed_the_image(h: Harness, operation: str) -> None:
    await h.taken(operation, {"left": 2_000})


async def no_such_field(h: Harness, operation: str) -> None:
    for name in ABSENT_FIELDS[operation]:
        await h.refused(operation, {name: "1"}, name, wire=False)


ABSENT_FIELDS = {
    "edit_outpaint": ["negative_prompt", "bottom"],
    "edit_search_and_recolor": ["search_prompt"],
    "edit_replace_background_and_relight": ["light_reference_image"],
    "control_style_transfer": ["style_preset", "aspect_ratio"],
}


async def some_background(h: Harness, operation: str) -> None:
    await h.refused(operation, {"background_prompt": ABSENT})
    await h.taken(operation, {"background_prompt": ABSENT, "background_reference": IMAGE})
    await h.taken(operation, {"background_reference": IMAGE})


async def strength_of_some_light(h: Harness, operation: str) -> None:
    await h.refused(operation, {"light_source_strength": 0.5}, "light_source_strength")
    for light in ({"light_reference": IMAGE}, {"light_source_direction": "above"}):
        await h.taken(operation, {"light_source_strength": 0.5, **light})


async def both_lights(h: Harness, operation: str) -> None:
    both = {"light_reference": IMAGE, "light_source_direction": "above"}
    await h.taken(operation, both)


# 3d and audio


async def target_count_without_type(h: Harness, operation: str) -> None:
    await h.taken(operation, {"target_count": 500})
    await h.taken(operation, {"target_count": 500, "target_type": "vertex"})


async def steps_by_model(h: Harness, operation: str) -> None:
    for model, good, bad in (
        ("stable-audio-2", (30, 100), (4, 8, 29, 101)),
        ("stable-audio-2.5", (4, 8), (3, 9, 30, 100)),
    ):
        for steps in good:
            await h.taken(operation, {"model": model, "steps": steps})
        for steps in bad:
            await h.refused(operation, {"model": model, "steps": steps}, "steps")


async def strength_by_model(h: Harness, operation: str) -> None:
    await h.taken(operation, {"model": "stable-audio-2", "strength": 0})
    await h.taken(operation, {"model": "stable-audio-2.5", "strength": 0.01})
    for strength in (0, 0.009):
        values = {"model": "stable-audio-2.5", "strength": strength}
        await h.refused(operation, values, "strength")


async def no_model_field(h: Harness, operation: str) -> None:
    request = build(operation, smallest(operation) | {"model": "stable-audio-2.5"})
    h.true("model" not in dict(request.texts()), "the API has no such field")
    await h.refused(operation, {"model": "stable-audio-2"}, "model", wire=False)
    await h.refused(operation, {"cfg_scale": 2}, "cfg_scale", wire=False)


async def masks_in_any_order(h: Harness, operation: str) -> None:
    await h.taken(operation, {"mask_start": 100, "mask_end": 50})


async def at_most_50_megabytes(h: Harness, operation: str) -> None:
    await _at_most(h, operation, 50_000_000)


async def at_most_100_megabytes(h: Harness, operation: str) -> None:
    await _at_most(h, operation, 100_000_000)


async def _at_most(h: Harness, operation: str, limit: int) -> None:
    for size, good in ((limit - 1_000, True), (limit, False)):
        path = h.folder / f"{size}.wav"
        _write_sparse(path, size)
        await (h.taken if good else h.refused)(
            operation, {"audio": path}, what=f"{size} bytes and a form around them", wire=False
        )
    status = await _announce(h, operation, limit + 1)
    h.true(status in {400, 413}, f"{operation}: sandbox answers {status} to {limit + 1} bytes")


def _write_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(AUDIO)
        file.truncate(size)


async def _announce(h: Harness, operation: str, size: int) -> int:
    """Say that a body of `size` bytes comes, send none of it, and return the status."""
    url = urlsplit(h.sandbox.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    path = next(fact["path"] for fact in facts()["endpoints"] if fact["id"] == operation)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {size}\r\n\r\n".encode()
    )
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


# asynchronous operations


async def submitted(h: Harness, operation: str) -> str:
    """Submit, and return the id."""
    expected = facts_of(operation).get("submit_status", 200)
    for accept in facts_of(operation)["accept"] or ["image/*", "application/json"]:
        values = smallest(operation)
        async with h.send(operation, values, accept=accept) as response:
            content = await response.json()
        h.true(response.status == expected, f"{operation}: {response.status} with {accept}")
        h.true(len(content["id"]) == 64, f"{operation}: {content}")
    return str(content["id"])


def facts_of(operation: str) -> dict[str, Any]:
    return next(fact for fact in facts()["endpoints"] if fact["id"] == operation)


async def submit_answers_an_id(h: Harness, operation: str) -> None:
    await submitted(h, operation)
    request = build(operation, smallest(operation))
    h.true(request.operation.result is not None, f"{operation} is asynchronous for the client")


async def polls_are_ten_seconds_apart(h: Harness, operation: str) -> None:
    h.true(polling.POLL_INTERVAL == facts()["meta"]["polling"]["min_interval_s"] == 10, operation)


async def same_key(h: Harness, operation: str) -> None:
    generation = await submitted(h, SUBMITS[operation])
    for key, status in (("sk-tester", 200), ("sk-somebody-else", 404)):
        async with h.send(operation, {"id": generation}, key=key) as response:
            h.true(response.status == status, f"{operation}: {response.status} with {key}")


async def running_and_finished(h: Harness, operation: str) -> None:
    generation = await submitted(h, SUBMITS[operation])
    async with h.send(operation, {"id": generation}) as response:
        h.true(response.status == 200, f"{operation}: {response.status}")
        media = {"results": "image/png", "upscale_creative_result": "image/png"}
        expected = media.get(operation, "audio/mpeg")
        h.true(response.content_type == expected, f"{operation}: {response.content_type}")


async def filtered_results_are_results(h: Harness, operation: str) -> None:
    values = smallest("upscale_creative") | {"prompt": "sandbox:filtered"}
    async with h.send("upscale_creative", values) as response:
        generation = (await response.json())["id"]
    async with h.send(operation, {"id": generation}) as response:
        reason = response.headers["finish-reason"]
        h.true((response.status, reason) == (200, "CONTENT_FILTERED"), f"{operation}: {reason}")


# v1


async def engine_dimensions(h: Harness, operation: str) -> None:
    for engine in facts()["v1_engines"]:
        if engine["use"] != "generation":
            continue
        limits = engine["dimensions"]
        good, bad = _sizes(limits)
        for (width, height), taken in [(size, True) for size in good] + [
            (size, False) for size in bad
        ]:
            values = {"engine_id": engine["id"], "width": width, "height": height}
            what = f"{width} x {height} with {engine['id']}"
            if taken:
                await h.taken(operation, values, what)
            else:
                await h.refused(operation, values, what=what)


def _sizes(limits: dict[str, Any]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return sizes an engine makes, and some it does not."""
    match limits:
        case {"allowed": allowed}:
            good = [tuple(map(int, size.split("x"))) for size in allowed]
            return good, [(512, 512), (1024, 896), (1088, 1024), (2048, 2048)]  # type: ignore[return-value]
        case {"rule": "at most one side above 512; largest 512x896 or 896x512"}:
            return (
                [(128, 128), (512, 512), (512, 896), (896, 512)],
                [(576, 576), (512, 960), (960, 512)],
            )
        case {"min_side": low, "max_side": high}:
            return [(low, low), (high, high)], [(low - 64, low), (high, high + 64)]
        case {"min_pixels": 262144, "max_pixels": 1048576}:
            return [(512, 512), (1024, 1024), (256, 1024)], [(512, 448), (1024, 1088)]
        case {"min_pixels": 589824, "max_pixels": 1048576}:
            return [(768, 768), (1024, 1024), (512, 1152)], [(512, 512), (1024, 1088)]
    raise AssertionError(f"limits that no check knows: {limits}")


async def samples_need_json(h: Harness, operation: str) -> None:
    values = {"samples": 2}
    await h.taken(operation, values)
    request = build(operation, smallest(operation) | values)
    h.true(request.operation.accept[0] == "application/json", "the client asks for JSON")
    async with h.send(operation, smallest(operation) | values, accept="image/png") as response:
        name = (await response.json())["name"]
        h.true((response.status, name) == (400, "invalid_samples"), f"{operation}: {name}")


async def the_stated_default_size(h: Harness, operation: str) -> None:
    for engine in ("stable-diffusion-xl-1024-v1-0", "stable-diffusion-xl-1024-v0-9"):
        values = {"engine_id": engine, "width": 512, "height": 512}
        await h.refused(operation, values, what=engine)
        # What the default is, the sources do not agree on: without sizes it is the API's affair.
        await h.taken(operation, {"engine_id": engine}, engine)


async def modes_of_init_image(h: Harness, operation: str) -> None:
    schedule = {"step_schedule_start": 0.5, "step_schedule_end": 0.9}
    await h.taken(operation, {"image_strength": 0.5})
    await h.taken(operation, {"init_image_mode": "IMAGE_STRENGTH", "image_strength": 0.5})
    await h.taken(operation, {"init_image_mode": "STEP_SCHEDULE", **schedule})
    values = {"init_image_mode": "STEP_SCHEDULE", "image_strength": 0.5}
    await h.refused(operation, values, "image_strength")
    for name, value in schedule.items():
        await h.refused(operation, {name: value}, name)


async def two_ways_to_say_strength(h: Harness, operation: str) -> None:
    fields = {fact["name"]: fact for fact in facts_of(operation)["fields"]}
    start, strength = fields["step_schedule_start"]["default"], fields["image_strength"]["default"]
    h.true(start == 1 - strength, f"{operation}: {start}, {strength}")


async def mask_image_is_required(h: Harness, operation: str) -> None:
    for source in ("MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK"):
        await h.taken(operation, {"mask_source": source, "mask_image": IMAGE})
        await h.refused(operation, {"mask_source": source}, "mask_image")


async def no_mask_image_with_alpha(h: Harness, operation: str) -> None:
    values = {"mask_source": "INIT_IMAGE_ALPHA"}
    await h.taken(operation, values)
    # The sources name no error for a mask too many: the sandbox lets it pass.
    await h.refused(operation, {**values, "mask_image": IMAGE}, "mask_image", wire=False)


async def masks_by_color(h: Harness, operation: str) -> None:
    for source in ("MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK"):
        await h.taken(operation, {"mask_source": source, "mask_image": IMAGE})


async def mask_image_of_equal_size(h: Harness, operation: str) -> None:
    values = {"mask_source": "MASK_IMAGE_WHITE", "mask_image": OTHER_IMAGE}
    await h.refused(operation, values, "mask_image")
    await h.taken(operation, {**values, "init_image": OTHER_IMAGE})


async def one_of_width_and_height(h: Harness, operation: str) -> None:
    await h.taken(operation, {"width": 512})
    await h.taken(operation, {"height": 512})
    await h.refused(operation, {"width": 512, "height": 512}, "width")


async def upscaled_pixels(h: Harness, operation: str) -> None:
    for engine in ("esrgan-v1-x2plus", "stable-diffusion-x4-latent-upscaler"):
        for values, taken in (
            ({"image": png_header(1024, 1024)}, True),
            ({"image": png_header(1024, 1025)}, False),
            ({"width": 2048}, True),
            ({"width": 2049}, False),
            ({"height": 2049}, False),
        ):
            both = {"engine_id": engine, **values}
            if taken:
                await h.taken(operation, both, engine)
            else:
                await h.refused(operation, both, what=engine)


RULES: dict[str, Rule] = {
    "image given -> strength required": image_needs_strength,
    "strength without image: not covered by the spec (the reference client refuses it)": (
        strength_without_image
    ),
    "mode text-to-image (default): only prompt required": text_to_image_needs_a_prompt_only,
    "mode image-to-image: prompt, image and strength required": (
        image_to_image_needs_image_and_strength
    ),
    "image and strength are valid only with mode image-to-image": image_needs_image_to_image,
    "aspect_ratio is valid only with mode text-to-image (rejected in image-to-image)": (
        aspect_ratio_needs_text_to_image
    ),
    "image alone does not switch the mode: send mode=image-to-image": image_needs_image_to_image,
    "prompt required (confirmed live: 400 without it)": prompt_is_required,
    "poll at most once per 10 s": polls_are_ten_seconds_apart,
    "accept undeclared; some samples send image/* and still read JSON {id}": submit_answers_an_id,
    "same key as the submit, otherwise 404": same_key,
    "202 = in progress, 200 = finished": running_and_finished,
    "no prompt: the spec's required list names prompt but no such property exists, and the server "
    "does not ask for it": erase_has_no_prompt,
    "mask absent -> mask derived from image's alpha channel (transparent = erase, opaque = keep)": (
        mask_comes_from_alpha
    ),
    "mask absent -> mask derived from image's alpha channel (transparent = inpaint, opaque = "
    "keep)": mask_comes_from_alpha,
    "mask and alpha both present -> mask wins": mask_wins_over_alpha,
    "mask of another size than image is resized by the server": mask_of_another_size,
    "neither mask nor alpha: not covered by the spec": neither_mask_nor_alpha,
    "at least one of left, right, up, down must be non-zero": some_direction,
    "advice: each direction no larger than the source's dimensions": (
        directions_may_exceed_the_image
    ),
    "no negative_prompt; the spec's curl sample sends a field `bottom`, which does not exist "
    "(use down)": no_such_field,
    "the field is select_prompt here, search_prompt on search-and-replace": no_such_field,
    "at least one of background_prompt, background_reference required (both allowed)": (
        some_background
    ),
    "light_source_strength requires light_reference or light_source_direction": (
        strength_of_some_light
    ),
    "light_reference or light_source_direction: the spec words them as alternatives; sending both "
    "is not covered": both_lights,
    "the spec's text once calls the file light_reference_image; the field is light_reference": (
        no_such_field
    ),
    "no style_preset and no aspect_ratio here": no_such_field,
    "202 = in progress (JSON {id, status: in-progress}), 200 = finished; no other progress "
    "information": running_and_finished,
    "403 and 429 are not declared here; a filtered output arrives as 200 with finish-reason "
    "CONTENT_FILTERED": filtered_results_are_results,
    "target_count takes effect through target_type vertex or face": target_count_without_type,
    "steps: 30..100 with stable-audio-2, 4..8 with stable-audio-2.5": steps_by_model,
    "strength at least 0.01 with stable-audio-2.5": strength_by_model,
    "request at most 50Mb": at_most_50_megabytes,
    "Stable Audio 2.5 only; no model and no cfg_scale field": no_model_field,
    "order of mask_start and mask_end: not covered by the spec": masks_in_any_order,
    "submit answers 202 with JSON {id} whatever accept says": submit_answers_an_id,
    "request at most 100Mb": at_most_100_megabytes,
    "202 = in progress (JSON {id, status: in-progress}), 200 = finished": running_and_finished,
    "samples wait 10 s between polls": polls_are_ten_seconds_apart,
    "height and width must satisfy v1_engines[engine_id].dimensions": engine_dimensions,
    "samples > 1 only with accept application/json": samples_need_json,
    "512x512, the stated default, is outside the SDXL 0.9 / 1.0 list: send dimensions "
    "(third-party notes on v1_r3 say the default is 512 or 1024 by engine)": (
        the_stated_default_size
    ),
    "init_image_mode IMAGE_STRENGTH takes image_strength; STEP_SCHEDULE takes "
    "step_schedule_start and step_schedule_end": modes_of_init_image,
    "step_schedule_start = 1 - image_strength": two_ways_to_say_strength,
    "mask_source MASK_IMAGE_WHITE or MASK_IMAGE_BLACK -> mask_image required (else "
    "invalid_mask_image)": mask_image_is_required,
    "mask_source INIT_IMAGE_ALPHA -> no mask_image; fully transparent pixels are replaced, opaque "
    "kept": no_mask_image_with_alpha,
    "MASK_IMAGE_WHITE replaces white pixels and keeps black; MASK_IMAGE_BLACK the reverse": (
        masks_by_color
    ),
    "mask_image and init_image must have equal dimensions (else invalid_image_dimensions)": (
        mask_image_of_equal_size
    ),
    "at most one of width, height": one_of_width_and_height,
    "result above 4,194,304 pixels -> invalid_pixel_count": upscaled_pixels,
}
