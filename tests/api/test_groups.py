"""Each coroutine of the client says what its request model says, and works."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import JsonValue

from stable_async import BadRequestError, StabilityClient, media
from stable_async.api import account, audio, base, edit, fields, file_input, generate, model3d, v1
from stable_async.sandbox import Sandbox
from stable_async.transport.options import CallOptions
from tests.operations_table import COROUTINES
from tests.samples import sample_image, wav

if TYPE_CHECKING:
    from collections.abc import Callable

# What the groups import for annotations only.
NAMES = {
    "Sequence": Sequence,
    "JsonValue": JsonValue,
    "Literal": Literal,
    "CallOptions": CallOptions,
    "FileInput": file_input.FileInput,
    "media": media,
    "account": account,
    "Image": media.Image,
    "SD3Model": generate.SD3Model,
    "LightDirection": edit.LightDirection,
    **{name: getattr(fields, name) for name in ("AspectRatio", "ImageFormat", "StylePreset")},
    **{name: getattr(model3d, name) for name in ("Remesh", "TextureResolution")},
    **{name: getattr(audio, name) for name in ("AudioFormat", "AudioModel")},
    **{
        name: getattr(v1, name)
        for name in ("Sampler", "ClipGuidancePreset", "TextPrompt", "Engine")
    },
}


def coroutine(path: str) -> Callable[..., Any]:
    group, name = path.split(".")
    found: Callable[..., Any] = getattr(getattr(StabilityClient("sk-key"), group), name)
    return found


def members(annotation: object) -> object:
    """Return an annotation in a form that compares: unions flat and without order."""
    if get_origin(annotation) in (Union, types.UnionType):
        return frozenset(map(members, get_args(annotation)))
    return annotation


@pytest.mark.parametrize(("path", "model"), COROUTINES.items())
def test_the_signature_of_a_coroutine_is_that_of_its_model(
    path: str, model: type[base.Request[Any]]
) -> None:
    function = coroutine(path)
    parameters = dict(inspect.signature(function).parameters)
    result = inspect.signature(function).return_annotation
    assert parameters.pop("options").annotation == f"Unpack[CallOptions[{result}]]"
    own = [name for name in model.model_fields if name != "paid"]
    required = [name for name in own if model.model_fields[name].is_required()]
    optional = [name for name in own if name not in required]
    assert list(parameters) == required + optional
    hints = get_type_hints(function, localns=NAMES)
    expected = get_type_hints(model)
    for name, parameter in parameters.items():
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        assert keyword_only == (name in optional), name
        assert parameter.default is (None if name in optional else parameter.empty), name
        assert members(hints[name]) == members(expected[name]), name


@pytest.mark.parametrize("model", COROUTINES.values(), ids=lambda model: model.__name__)
def test_a_model_describes_every_field(model: type[base.Request[Any]]) -> None:
    text = inspect.getdoc(model) or ""
    for name in model.model_fields:
        assert f"\n    {name}: " in text, name


def smallest(path: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "prompt": "a lighthouse",
        "search_prompt": "a boat",
        "select_prompt": "a boat",
        "audio": wav(7),
        "engine_id": "stable-diffusion-v1-6",
        "text_prompts": [{"text": "a lighthouse"}],
        "mask_source": "INIT_IMAGE_ALPHA",
    }
    values |= dict.fromkeys(("image", "init_image", "style_image", "subject_image"), sample_image())
    more: dict[str, dict[str, Any]] = {
        "edit.outpaint": {"left": 8},
        "edit.replace_background_and_relight": {"background_prompt": "a beach"},
        "v1.masking": {"init_image": sample_image(mode="RGBA")},
        "v1.upscale": {"engine_id": "esrgan-v1-x2plus"},
        "v1.text_to_image": {"width": 320, "height": 320, "samples": 2},
    }
    model = COROUTINES[path]
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return {name: values[name] for name in required} | more.get(path, {})


RESULTS = [path for path, model in COROUTINES.items() if "id" in model.model_fields]
RETURNS = {"model3d": media.Model3D, "audio": media.Audio}


async def test_every_coroutine_gives_its_result_at_the_list_price() -> None:
    async with (
        Sandbox(counting="off", latency=0.0) as sandbox,
        StabilityClient("sk-key", base_url=sandbox.url, quota=None, poll_interval=0) as client,
    ):
        for path, model in COROUTINES.items():
            if path in RESULTS:
                continue
            group, name = path.split(".")
            before = sandbox.statistics.credits_spent
            result = await getattr(getattr(client, group), name)(**smallest(path))
            cost = sandbox.statistics.credits_spent - before
            price = model(**smallest(path)).credits
            assert cost == pytest.approx(price or 0), path
            if isinstance(result, media.Media):
                assert type(result) is RETURNS.get(group, media.Image), path
                assert result.credits == price, path
                assert result.data, path
                assert not result.filtered, path
                if group != "model3d":
                    assert result.seed is not None, path
                    assert result.finish_reason == "SUCCESS", path


async def test_stable_audio_3_is_waited_for() -> None:
    async with (
        Sandbox(counting="off", latency=0.0) as sandbox,
        StabilityClient("sk-key", base_url=sandbox.url, quota=None, poll_interval=0) as client,
    ):
        prompt, audio = "rain", wav(200)
        for result in (
            await client.audio.text_to_audio(prompt, model="stable-audio-3", duration=200),
            await client.audio.audio_to_audio(prompt, audio, model="stable-audio-3", duration=1),
            await client.audio.inpaint(prompt, audio, model="stable-audio-3", output_format="wav"),
        ):
            assert (type(result), result.credits) == (media.Audio, 26)


async def test_a_creative_upscale_can_be_fetched_by_either_path() -> None:
    async with (
        Sandbox(counting="off", latency=0.0) as sandbox,
        StabilityClient("sk-key", base_url=sandbox.url, quota=None, poll_interval=0) as client,
    ):
        image = await client.upscale.creative(sample_image(), "a lighthouse")
        generation = sandbox.log[-1].path.rpartition("/")[2]
        for again in (
            await client.upscale.creative_result(generation),
            await client.results.get(generation),
        ):
            assert (again.data, again.seed) == (image.data, image.seed)


async def test_a_mirror_has_its_prefix_and_its_older_models() -> None:
    async with Sandbox(counting="off", latency=0.0) as sandbox:
        for prefix, taken in (("/sd", True), ("", False)):
            client = StabilityClient("sk-key", base_url=sandbox.url + prefix, quota=None)
            async with client:
                asking = client.generate.sd3("a lighthouse", model="sd3-large")
                if taken:
                    assert (await asking).credits == 6.5
                else:
                    with pytest.raises(BadRequestError, match="model"):
                        await asking
