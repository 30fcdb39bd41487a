"""Every operation and every field of the facts, over the wire."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from stable_async.sandbox.spec.facts import Field, Operation
from tests.sandbox.support import (
    NEEDED_WITH,
    OPERATIONS,
    Caller,
    file_for,
    sample_audio,
    sample_image,
    smallest,
)

WORKING = [operation for operation in OPERATIONS.values() if operation.method == "POST"]
LOOKING_UP = [operation for operation in OPERATIONS.values() if operation.method == "GET"]
FIELDS = [
    (operation, fact) for operation in WORKING for fact in operation.fields if fact.place == "body"
]
SOUNDS = [pair for pair in FIELDS if pair[1].max_seconds is not None]
PICTURES = [pair for pair in FIELDS if pair[1].type == "file" and pair not in SOUNDS]


LARGE = {"upscale_conservative", "upscale_creative", "v2alpha_upscale"}


def of_type(*types: str) -> list[tuple[Operation, Field]]:
    return [pair for pair in FIELDS if pair[1].type in types]


def name_of(value: Operation | Field) -> str:
    return value.id if isinstance(value, Operation) else value.name


@pytest.mark.parametrize("operation", WORKING, ids=lambda operation: operation.id)
async def test_the_smallest_valid_request_of_every_operation_succeeds(
    caller: Caller, operation: Operation
) -> None:
    reply = await caller.operate(operation)
    assert reply.status == operation.submit_status, reply.body
    if operation.submits:
        assert len(str(reply.json["id"])) == 64
    elif operation.accept and operation.api == "v2":
        kind = operation.accept[0].removesuffix("*")
        assert reply.headers["Content-Type"].startswith(kind)
        assert reply.headers["finish-reason"] == "SUCCESS"
        assert 0 < int(reply.headers["seed"]) < 2**32


@pytest.mark.parametrize("operation", LOOKING_UP, ids=lambda operation: operation.id)
async def test_every_look_up_answers(caller: Caller, operation: Operation) -> None:
    reply = await caller.operate(operation)
    assert reply.status == (404 if "{id}" in operation.path else 200)
    if reply.status == 404:
        assert reply.json["name"] == "generation_not_found"


@pytest.mark.parametrize("operation", WORKING, ids=lambda operation: operation.id)
async def test_every_required_field_is_asked_for_all_at_once(
    caller: Caller, operation: Operation
) -> None:
    required = [fact for fact in operation.fields if fact.required and fact.place == "body"]
    reply = await caller.operate(operation, dict.fromkeys(smallest(operation)))
    assert reply.status == 400
    text = reply.body.decode()
    for fact in required:
        assert f"{fact.name}: " in text


@pytest.mark.parametrize(("operation", "fact"), of_type("number", "integer"), ids=name_of)
async def test_numbers_are_taken_at_their_bounds_and_refused_beyond(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    for model in [*fact.per_model] or [""]:
        limits = fact.for_model(model)
        extra = {**NEEDED_WITH.get((operation.id, fact.name), {})}
        if model:
            extra["model"] = model
        if operation.id in LARGE:
            # Ten megapixels need not be drawn to see that a number is taken.
            extra["output_format"] = "none"
        step = 1 if fact.type == "integer" else 0.01
        for bound, beyond in ((limits.minimum, -step), (limits.maximum, step)):
            if bound is None:
                continue
            inside = await caller.operate(operation, {**extra, fact.name: f"{bound:.14g}"})
            assert f"{fact.name}: " not in inside.body[:500].decode(errors="replace"), bound
            outside = await caller.operate(
                operation, {**extra, fact.name: f"{bound + beyond:.14g}"}
            )
            assert outside.status == 400, bound + beyond
            assert f"{fact.name}: " in outside.body.decode()
    wrong = await caller.operate(operation, {fact.name: "lots"})
    assert wrong.status == 400


@pytest.mark.parametrize(("operation", "fact"), of_type("enum"), ids=name_of)
async def test_every_value_of_an_enum_is_taken_and_another_refused(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    for value in fact.values:
        reply = await caller.operate(operation, {fact.name: value, **unpriced(operation)})
        assert f"{fact.name}: must be one of" not in reply.body[:500].decode(errors="replace")
    reply = await caller.operate(operation, {fact.name: "no-such-value"})
    assert reply.status == 400
    assert f"{fact.name}: must be one of" in reply.body.decode()


def unpriced(operation: Operation) -> dict[str, str]:
    """Make a request fail in another field, so that no image is made only to see one enum."""
    text = next((fact for fact in operation.fields if fact.max_length), None)
    return {text.name: "x" * 10_001} if text and operation.body == "multipart" else {}


@pytest.mark.parametrize(("operation", "fact"), of_type("string"), ids=name_of)
async def test_texts_are_as_long_as_stated_in_characters(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    longest = fact.max_length or 0
    fits = await caller.operate(operation, {fact.name: "é" * longest, "seed": "-1"})
    assert f"{fact.name}: " not in fits.body[:500].decode(errors="replace")
    long = await caller.operate(operation, {fact.name: "é" * (longest + 1)})
    assert long.status == 400
    if fact.min_length:
        assert (await caller.operate(operation, {fact.name: ""})).status == 400
    as_file = await caller.operate(operation, {fact.name: ("prompt.txt", b"a lighthouse")})
    assert as_file.status == 400
    assert f"{fact.name}: must be" in as_file.body.decode()


@pytest.mark.parametrize(("operation", "fact"), of_type("file"), ids=name_of)
async def test_files_are_judged_by_their_content(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    reply = await caller.operate(operation, {fact.name: ("in.png", b"not what the name says")})
    assert reply.status == 400
    assert f"{fact.name}: " in reply.body.decode()
    _, data = file_for(fact)
    extra = NEEDED_WITH.get((operation.id, fact.name), {})
    file = ("notes.txt", data)
    misnamed = await caller.operate(operation, {**extra, fact.name: file, "seed": "-1"})
    assert f"{fact.name}: " not in misnamed.body[:500].decode(errors="replace")


@pytest.mark.parametrize(("operation", "fact"), PICTURES, ids=name_of)
async def test_images_are_held_to_their_sides_pixels_and_aspect_ratios(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    async def said(width: int, height: int) -> str:
        # JPEG would not go beyond 65,535, and PNG compresses one colour best.
        file = ("in.png", sample_image(width, height))
        reply = await caller.operate(operation, {fact.name: file, "seed": "-1", "grow_mask": "-1"})
        return reply.body[:500].decode(errors="replace")

    low = fact.min_side
    assert f"{fact.name}: width" not in await said(low, low)
    if low > 1:
        assert f"{fact.name}: width" in await said(low - 1, low * 2)
    if fact.max_side is not None:
        assert f"{fact.name}: width" not in await said(fact.max_side, low)
        assert f"{fact.name}: width" in await said(fact.max_side + 1, low)
    if fact.max_pixels is not None:
        side = int(fact.max_pixels**0.5)
        assert f"{fact.name}: total" not in await said(side, side)
        over = f"{fact.name}: total" in await said(side, side + 1)
        # A short side may be reached before so many pixels are.
        assert over or (fact.max_side is not None and side >= fact.max_side)
    if fact.aspect_range is not None:
        assert f"{fact.name}: aspect" not in await said(250, 100)
        assert f"{fact.name}: aspect" in await said(251, 100)
        assert f"{fact.name}: aspect" in await said(100, 251)


@pytest.mark.parametrize(("operation", "fact"), SOUNDS, ids=name_of)
async def test_audio_is_held_to_its_length(
    caller: Caller, operation: Operation, fact: Field
) -> None:
    assert fact.max_seconds is not None
    for seconds, taken in ((fact.min_seconds, 200), (fact.min_seconds - 0.1, 400)):
        reply = await caller.operate(operation, {fact.name: ("in.wav", sample_audio(seconds))})
        assert (reply.status < 300) == (taken < 300)
    reply = await caller.operate(
        operation, {fact.name: ("in.wav", sample_audio(fact.max_seconds + 0.1))}
    )
    assert reply.status == 400


@pytest.mark.parametrize(
    "operation",
    [operation for operation in WORKING if operation.accept],
    ids=lambda operation: operation.id,
)
async def test_accept_takes_what_is_declared(caller: Caller, operation: Operation) -> None:
    for accept in operation.accept:
        assert (await caller.operate(operation, accept=accept)).status < 300
    reply = await caller.operate(operation, accept="text/html")
    assert reply.status == 400
    assert "accept: must be one of" in reply.body.decode()


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
async def test_images_come_in_the_format_asked_for(caller: Caller, output_format: str) -> None:
    reply = await caller.core(output_format=output_format)
    image = Image.open(io.BytesIO(reply.body))
    image.load()
    assert reply.headers["Content-Type"] == f"image/{output_format}"
    assert image.format == output_format.upper()
    assert image.mode == "RGB"
