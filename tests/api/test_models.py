"""Request models refuse what the API would, say what was given and allowed, and quote nobody."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stable_async import (
    AudioInpaint,
    Erase,
    FieldProblem,
    GenerateCore,
    GenerateSD3,
    ImageResult,
    InvalidRequestError,
    Outpaint,
    Request,
    SearchAndReplace,
    StableFast3D,
    TextToAudio,
    V1Masking,
    V1TextToImage,
    V1Upscale,
)
from stable_async.api.file_input import ALLOWED

SDXL = "stable-diffusion-xl-1024-v1-0"
PROMPTS: Any = [{"text": "x"}]


def problems(model: type[Any], /, **values: object) -> list[FieldProblem]:
    with pytest.raises(InvalidRequestError) as caught:
        model(**values)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        (GenerateCore, {}, ("prompt", "required, not given", "text of up to 10000 characters")),
        (GenerateCore, {"prompt": ""}, ("prompt", "given 0 characters", "1 to 10000 characters")),
        (
            GenerateCore,
            {"prompt": "x", "seed": -1},
            ("seed", "given -1", "a whole number from 0 to 4294967294"),
        ),
        (
            GenerateCore,
            {"prompt": "x", "output_format": "gif"},
            ("output_format", "given 'gif'", "'jpeg', 'png' or 'webp'"),
        ),
        (
            Erase,
            {"image": b"x", "grow_mask": 20.5},
            ("grow_mask", "given 20.5", "a number from 0 to 20"),
        ),
        (
            V1TextToImage,
            {"engine_id": SDXL, "text_prompts": PROMPTS, "height": 100},
            ("height", "given 100", "a whole number, 128 or more, a multiple of 64"),
        ),
        (
            V1TextToImage,
            {"engine_id": "../user/balance", "text_prompts": PROMPTS},
            (
                "engine_id",
                "given '../user/balance'",
                "1 to 128 letters, digits, dots, underscores or hyphens",
            ),
        ),
        (
            V1TextToImage,
            {"engine_id": SDXL, "text_prompts": [{"text": "x" * 2_001}]},
            ("text_prompts.0.text", "given 2001 characters", "up to 2000 characters"),
        ),
        (
            V1TextToImage,
            {"engine_id": SDXL, "text_prompts": []},
            ("text_prompts", "given 0 items", "1 or more items"),
        ),
        (
            V1TextToImage,
            {"engine_id": SDXL, "text_prompts": PROMPTS, "steps": 51},
            ("steps", "given 51", f"10 to 50 with {SDXL}"),
        ),
        (
            V1Upscale,
            {"engine_id": "esrgan-v1-x2plus", "image": b"x", "seed": 1},
            ("seed", "given", "only with engine stable-diffusion-x4-latent-upscaler"),
        ),
        (
            StableFast3D,
            {"image": b"x", "texture_resolution": 1024},
            ("texture_resolution", "given 1024", "'512', '1024' or '2048'"),
        ),
        (
            TextToAudio,
            {"prompt": "x", "duration": 191},
            ("duration", "given 191", "up to 190 seconds with stable-audio-2"),
        ),
        (
            AudioInpaint,
            {"prompt": "x", "audio": b"x", "mask_end": 190.5},
            ("mask_end", "given 190.5", "up to 190 seconds with stable-audio-2.5"),
        ),
        (
            Erase,
            {"image": 7},
            (
                "image",
                "given 7",
                ALLOWED,
            ),
        ),
        (
            GenerateCore,
            {"prompt": "x", "steps": 7},
            (
                "steps",
                "no such argument",
                "prompt, aspect_ratio, negative_prompt, seed, style_preset, output_format",
            ),
        ),
    ],
)
def test_a_problem_names_field_given_and_allowed(
    model: type[Any], values: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    assert problems(model, **values) == [FieldProblem(*expected)]


def test_everything_wrong_is_told_at_once() -> None:
    found = problems(GenerateSD3, prompt="", seed=-1, model="sd1", cfg_scale=11)
    assert [problem.field for problem in found] == ["prompt", "model", "seed", "cfg_scale"]


def test_rules_are_told_all_at_once_too() -> None:
    found = problems(GenerateSD3, prompt="x", mode="image-to-image", aspect_ratio="1:1")
    assert [problem.field for problem in found] == ["image", "strength", "aspect_ratio"]


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "my secret plan" * 1_000},
        {"prompt": "x", "search_prompt": 7, "negative_prompt": "my secret plan" * 1_000},
        {"prompt": "x", "search_prompt": "y", "grow_mask": "my secret plan" * 10},
    ],
)
def test_no_error_quotes_prompts_or_files(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SearchAndReplace(image=b"my secret picture", **values)
    assert "secret" not in str(caught.value)


def test_an_image_is_not_shown() -> None:
    assert "secret" not in repr(Erase(image=b"my secret picture"))


@pytest.mark.parametrize(
    "request_model",
    [
        GenerateCore(prompt="x", seed=7),
        Erase(image=b"x", mask="mask.png"),
        V1TextToImage(engine_id=SDXL, text_prompts=PROMPTS),
        ImageResult(id="a" * 64, paid=60),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_is_a_value(request_model: Request[object]) -> None:
    assert pickle.loads(pickle.dumps(request_model)) == request_model
    assert copy.deepcopy(request_model) == request_model
    name = next(iter(type(request_model).model_fields))
    with pytest.raises(Exception, match="frozen"):
        setattr(request_model, name, "y")


def test_requests_with_pixels_can_be_compared() -> None:
    """As `requests.index(outcome.request)` does; two arrays compare to an array."""
    pixels, others = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    requests = [Erase(image=pixels, seed=1), Erase(image=pixels), Erase(image=others)]
    assert [requests.index(one) for one in requests] == [0, 1, 2]
    assert Erase(image=pixels) == Erase(image=pixels)
    assert Erase(image=pixels) != Erase(image=b"x")
    assert Erase(image=b"x") == Erase(image=b"x")
    assert hash(Erase(image=b"x")) == hash(Erase(image=b"x"))
    assert Erase(image=b"x") != "x"


def test_what_was_not_given_is_not_sent() -> None:
    assert dict(GenerateCore(prompt="x").texts()) == {"prompt": "x"}
    request = Outpaint(image=b"x", left=0, up=8, creativity=1)
    assert dict(request.texts()) == {"left": "0", "up": "8", "creativity": "1"}


def test_a_mask_is_needed_exactly_when_its_source_says_so() -> None:
    values: dict[str, Any] = {"engine_id": SDXL, "text_prompts": PROMPTS, "init_image": b"x"}
    (missing,) = problems(V1Masking, **values, mask_source="MASK_IMAGE_BLACK")
    assert missing.field == "mask_image"
    (needless,) = problems(V1Masking, **values, mask_source="INIT_IMAGE_ALPHA", mask_image=b"x")
    assert needless.field == "mask_image"


def test_an_engine_nobody_knows_may_make_any_size() -> None:
    V1TextToImage(engine_id="next-engine", text_prompts=PROMPTS, width=4096, height=128, steps=150)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("seed", 10**5000, "seed: given a whole number of 16610 bits; allowed: a whole number"),
        ("prompt", -(10**5000), "prompt: given a whole number of 16610 bits"),
        ("prompt", "\ud83d", "prompt: given 1 characters; allowed: text without lone surrogates"),
    ],
    ids=["seed", "number", "surrogate"],
)
def test_what_python_cannot_write_is_refused_as_anything_else(
    field: str, value: object, says: str
) -> None:
    fields: dict[str, Any] = {"prompt": "x", field: value}
    with pytest.raises(InvalidRequestError, match=re.escape(says)):
        GenerateCore(**fields)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", b"x", "prompt: given 1 bytes; allowed: text"),
        ("negative_prompt", bytearray(b"xy"), "negative_prompt: given 2 bytes; allowed: text"),
        ("seed", True, "seed: given True; allowed: a number"),
        ("seed", b"7", "seed: given 1 bytes; allowed: a number"),
    ],
)
def test_bytes_are_no_text_and_a_truth_value_is_no_number(
    field: str, value: object, says: str
) -> None:
    fields: dict[str, Any] = {"prompt": "x", field: value}
    with pytest.raises(InvalidRequestError, match=re.escape(says)):
        GenerateCore(**fields)
    with pytest.raises(ValidationError, match=re.escape(says.partition(": ")[2])):
        GenerateCore.model_validate(fields)
