"""Requests of the older v1 interface: SDXL and earlier engines.

Facts: v1 documents of api.stability.ai in three revisions, the last known from copies only. No
source states prices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NotRequired

from pydantic import BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from stable_async.api.answers import Answer, read_artifacts, read_as
from stable_async.api.base import Operation, PathPart, Request, ResultT, WholeRequest
from stable_async.api.fields import StylePreset, UnitInterval
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.file_limits import FileHead
from stable_async.api.verdict import Asked
from stable_async.errors import FieldProblem
from stable_async.image_header import read_image_header
from stable_async.media import Image

__all__ = [
    "ClipGuidancePreset",
    "Engine",
    "Sampler",
    "TextPrompt",
    "V1Engines",
    "V1ImageToImage",
    "V1Masking",
    "V1TextToImage",
    "V1Upscale",
]

Sampler = Literal[
    "DDIM",
    "DDPM",
    "K_DPMPP_2M",
    "K_DPMPP_2S_ANCESTRAL",
    "K_DPM_2",
    "K_DPM_2_ANCESTRAL",
    "K_EULER",
    "K_EULER_ANCESTRAL",
    "K_HEUN",
    "K_LMS",
]
"""How the image is sampled."""

ClipGuidancePreset = Literal[
    "FAST_BLUE", "FAST_GREEN", "NONE", "SIMPLE", "SLOW", "SLOWER", "SLOWEST"
]
"""How CLIP guides the image."""

# Asking for an image format would return one image; JSON with base64 carries any number.
ACCEPT = ("application/json", "image/png")
MAX_OUTPUT_PIXELS = 4_194_304


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "a number")
    return value


class TextPrompt(TypedDict):
    """A prompt and its weight.

    Attributes:
        text: Up to 2,000 characters.
        weight: A negative one says what should not be in the image.
    """

    text: Annotated[str, Field(max_length=2_000)]
    weight: NotRequired[Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]]


EngineId = Annotated[str, PathPart()]
TextPrompts = Annotated[Sequence[TextPrompt], Field(min_length=1)]
CfgScale = Annotated[float, Field(ge=0, le=35)]
Samples = Annotated[int, Field(ge=1, le=10)]
V1Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
Steps = Annotated[int, Field(ge=10, le=150)]
Side = Annotated[int, Field(ge=128, multiple_of=64)]
UpscaledSide = Annotated[int, Field(ge=512)]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The images an engine makes: a list of sizes, or bounds.

    Attributes:
        allowed: Width and height of each; empty where bounds say it.
        sides: Lowest and highest width and height, pixels.
        pixels: Lowest and highest width times height.
        one_above: At most one side may be above this.
        max_steps: Maximum steps.
    """

    allowed: frozenset[tuple[int, int]] = frozenset()
    sides: tuple[int, int] | None = None
    pixels: tuple[int, int] | None = None
    one_above: int | None = None
    max_steps: int = 150

    def takes(self, width: int, height: int) -> bool:
        shorter, longer = sorted((width, height))
        return (
            (not self.allowed or (width, height) in self.allowed)
            and (self.sides is None or self.sides[0] <= shorter <= longer <= self.sides[1])
            and (self.pixels is None or self.pixels[0] <= width * height <= self.pixels[1])
            and (self.one_above is None or shorter <= self.one_above)
        )

    def __str__(self) -> str:
        if self.allowed:
            return "one of " + ", ".join(f"{w} x {h}" for w, h in sorted(self.allowed))
        if self.pixels is not None:
            return f"{self.pixels[0]} to {self.pixels[1]} pixels in all"
        low, high = self.sides or (128, 0)
        only_one = f", one of them up to {self.one_above}" if self.one_above else ""
        return f"sides of {low} to {high} pixels{only_one}"


_HALF_SDXL = {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640)}
_SDXL = frozenset(_HALF_SDXL | {(height, width) for width, height in _HALF_SDXL})
_ENGINES: dict[str, _Sizes] = {
    # The last revision of the documents has at most 50 steps; it covers these two engines.
    "stable-diffusion-xl-1024-v1-0": _Sizes(allowed=_SDXL, max_steps=50),
    "stable-diffusion-v1-6": _Sizes(sides=(320, 1_536), max_steps=50),
    "stable-diffusion-xl-1024-v0-9": _Sizes(allowed=_SDXL),
    "stable-diffusion-xl-beta-v2-2-2": _Sizes(sides=(128, 896), one_above=512),
    "stable-diffusion-768-v2-1": _Sizes(pixels=(589_824, 1_048_576)),
    "stable-diffusion-512-v2-1": _Sizes(pixels=(262_144, 1_048_576)),
    "stable-diffusion-v1-5": _Sizes(pixels=(262_144, 1_048_576)),
}


class V1Generation(Request[ResultT]):
    """The fields of every v1 request but the upscaler's, without the prompts."""

    engine_id: EngineId
    cfg_scale: CfgScale | None = None
    clip_guidance_preset: ClipGuidancePreset | None = None
    sampler: Sampler | None = None
    samples: Samples | None = None
    seed: V1Seed | None = None
    steps: Steps | None = None
    style_preset: StylePreset | None = None
    extras: dict[str, JsonValue] | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        engine = _ENGINES.get(self.engine_id, _Sizes())
        if self.steps is not None and self.steps > engine.max_steps:
            allowed = f"10 to {engine.max_steps} with {self.engine_id}"
            yield FieldProblem("steps", f"given {self.steps}", allowed)


class _Artifacts(WholeRequest[list[Image]]):
    """What is answered with as many images as `samples`."""

    engine_id: EngineId
    text_prompts: TextPrompts

    def read(self, answer: Answer) -> list[Image]:
        return read_artifacts(answer)


class TextToImageFields(V1Generation[ResultT]):
    """The fields of `V1TextToImage` besides its prompts."""

    height: Side | None = None
    width: Side | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        yield from super().broken_rules()
        engine = _ENGINES.get(self.engine_id)
        if engine is None or (self.width is None and self.height is None):
            return
        width, height = self.width or 512, self.height or 512
        if not engine.takes(width, height):
            given = f"given {width} x {height} pixels"
            yield FieldProblem("width", given, f"{engine} with {self.engine_id}")


class V1TextToImage(TextToImageFields[list[Image]], _Artifacts):
    """Images from prompts. As many as `samples`, of the asked size; the price is not stated.

    Attributes:
        engine_id: Such as stable-diffusion-xl-1024-v1-0; `client.v1.engines()` lists yours.
        text_prompts: One or more, each with `text` and perhaps `weight`; see `TextPrompt`.
        cfg_scale: How closely to follow the prompts, 0 to 35; the API's default is 7.
        clip_guidance_preset: How CLIP guides the image; the API's default is NONE.
        sampler: Chosen by the API unless given.
        samples: How many images, 1 to 10; the API's default is 1.
        seed: 0 to 4294967295; 0 or not given is random.
        steps: 10 to 150, with SDXL 1.0 and SD 1.6 to 50; the API's default is 50 or 30.
        style_preset: A style to guide the image towards.
        extras: Experimental parameters of the engine.
        height: Pixels, a multiple of 64, 128 or more. The API's default of 512 suits no SDXL
            engine, so pass both sides; each engine takes certain sizes only.
        width: As `height`.
    """

    operation: ClassVar[Operation] = Operation(
        id="v1_text_to_image",
        path="/v1/generation/{engine_id}/text-to-image",
        credits=None,
        output="PNG of the requested width and height",
        body="json",
        accept=ACCEPT,
        organization=True,
    )


class ImageToImageFields(V1Generation[ResultT]):
    """The fields of `V1ImageToImage` besides its prompts."""

    init_image: Annotated[FileInput, FilePart()] = Field(repr=False)
    init_image_mode: Literal["IMAGE_STRENGTH", "STEP_SCHEDULE"] | None = None
    image_strength: UnitInterval | None = None
    step_schedule_start: UnitInterval | None = None
    step_schedule_end: UnitInterval | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        yield from super().broken_rules()
        if self.init_image_mode == "STEP_SCHEDULE":
            other, names = "IMAGE_STRENGTH", ["image_strength"]
        else:
            other, names = "STEP_SCHEDULE", ["step_schedule_start", "step_schedule_end"]
        for name in names:
            if (value := getattr(self, name)) is not None:
                yield FieldProblem(name, f"given {value:g}", f"only with init_image_mode={other!r}")


class V1ImageToImage(ImageToImageFields[list[Image]], _Artifacts):
    """Images from prompts and an image. As many as `samples`; the price is not stated.

    Attributes:
        engine_id: Such as stable-diffusion-xl-1024-v1-0; `client.v1.engines()` lists yours.
        text_prompts: One or more, each with `text` and perhaps `weight`; see `TextPrompt`.
        init_image: The image to start from. No limits are stated.
        cfg_scale: How closely to follow the prompts, 0 to 35; the API's default is 7.
        clip_guidance_preset: How CLIP guides the image; the API's default is NONE.
        sampler: Chosen by the API unless given.
        samples: How many images, 1 to 10; the API's default is 1.
        seed: 0 to 4294967295; 0 or not given is random.
        steps: 10 to 150, with SDXL 1.0 and SD 1.6 to 50; the API's default is 50 or 30.
        style_preset: A style to guide the image towards.
        extras: Experimental parameters of the engine.
        init_image_mode: What says how far to move away from `init_image`: `image_strength`, the
            API's default, or the two fields of `step_schedule`.
        image_strength: 0 to 1, where 1 keeps `init_image`; the API's default is 0.35. The same as a
            `step_schedule_start` of 1 minus this.
        step_schedule_start: 0 to 1; the API's default is 0.65.
        step_schedule_end: 0 to 1.
    """

    operation: ClassVar[Operation] = Operation(
        id="v1_image_to_image",
        path="/v1/generation/{engine_id}/image-to-image",
        credits=None,
        output="PNG",
        accept=ACCEPT,
        organization=True,
    )


class MaskingFields(V1Generation[ResultT]):
    """The fields of `V1Masking` besides its prompts."""

    init_image: Annotated[FileInput, FilePart()] = Field(repr=False)
    mask_source: Literal["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"]
    mask_image: Annotated[FileInput | None, FilePart()] = Field(default=None, repr=False)

    def broken_rules(self) -> Iterator[FieldProblem]:
        yield from super().broken_rules()
        source = self.mask_source
        if source == "INIT_IMAGE_ALPHA":
            if self.mask_image is not None:
                allowed = "only with a mask_source other than INIT_IMAGE_ALPHA"
                yield FieldProblem("mask_image", "given", allowed)
        elif self.mask_image is None:
            given = f"required with mask_source={source!r}, not given"
            yield FieldProblem("mask_image", given, "a file")

    def broken_file_rules(self, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
        if "mask_image" not in heads:
            return
        mask, init = (read_image_header(heads[name].data) for name in ("mask_image", "init_image"))
        if mask and init and (mask.width, mask.height) != (init.width, init.height):
            given = f"given {mask.width} x {mask.height} pixels"
            allowed = f"{init.width} x {init.height} pixels, as init_image"
            yield FieldProblem("mask_image", given, allowed)


class V1Masking(MaskingFields[list[Image]], _Artifacts):
    """An image with what a mask covers repainted. As many as `samples`; the price is not
    stated.

    Attributes:
        engine_id: Such as stable-inpainting-512-v2-0; `client.v1.engines()` lists yours.
        text_prompts: One or more, each with `text` and perhaps `weight`; see `TextPrompt`.
        init_image: The image to change. No limits are stated.
        mask_source: What is painted: the white or the black of `mask_image`, or what is
            transparent in `init_image`.
        cfg_scale: How closely to follow the prompts, 0 to 35; the API's default is 7.
        clip_guidance_preset: How CLIP guides the image; the API's default is NONE.
        sampler: Chosen by the API unless given.
        samples: How many images, 1 to 10; the API's default is 1.
        seed: 0 to 4294967295; 0 or not given is random.
        steps: 10 to 150, with SDXL 1.0 and SD 1.6 to 50; the API's default is 50 or 30.
        style_preset: A style to guide the image towards.
        extras: Experimental parameters of the engine.
        mask_image: Gray, of the size of `init_image`; required unless `mask_source` is
            INIT_IMAGE_ALPHA, which takes none.
    """

    operation: ClassVar[Operation] = Operation(
        id="v1_image_to_image_masking",
        path="/v1/generation/{engine_id}/image-to-image/masking",
        credits=None,
        output="PNG",
        accept=ACCEPT,
        organization=True,
    )


_LATENT_UPSCALER = "stable-diffusion-x4-latent-upscaler"
_ESRGAN = "esrgan-v1-x2plus"


class V1Upscale(WholeRequest[list[Image]]):
    """A larger image: twice the width and height by default, up to 4,194,304 pixels.
    The price is not stated.

    Attributes:
        engine_id: esrgan-v1-x2plus or stable-diffusion-x4-latent-upscaler.
        image: The image. No limits are stated.
        width: Pixels, 512 or more; the height follows. Not together with `height`.
        height: Pixels, 512 or more; the width follows.
        text_prompts: As in `V1TextToImage`. This and what follows only with the latent upscaler.
        seed: 0 to 4294967295; 0 or not given is random.
        steps: 10 to 150; the API's default is 50.
        cfg_scale: How closely to follow the prompts, 0 to 35; the API's default is 7.
    """

    operation: ClassVar[Operation] = Operation(
        id="v1_image_to_image_upscale",
        path="/v1/generation/{engine_id}/image-to-image/upscale",
        credits=None,
        output="PNG, twice the width and height",
        accept=ACCEPT,
        organization=True,
    )

    engine_id: EngineId
    image: Annotated[FileInput, FilePart()] = Field(repr=False)
    width: UpscaledSide | None = None
    height: UpscaledSide | None = None
    text_prompts: TextPrompts | None = None
    seed: V1Seed | None = None
    steps: Steps | None = None
    cfg_scale: CfgScale | None = None

    def read(self, answer: Answer) -> list[Image]:
        return read_artifacts(answer)

    def broken_rules(self) -> Iterator[FieldProblem]:
        if self.width is not None and self.height is not None:
            yield FieldProblem("height", f"given {self.height}", "height or width, not both")
        if self.engine_id == _ESRGAN:
            for name in ("text_prompts", "seed", "steps", "cfg_scale"):
                if getattr(self, name) is not None:
                    yield FieldProblem(name, "given", f"only with engine {_LATENT_UPSCALER}")

    def broken_file_rules(self, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
        image = read_image_header(heads["image"].data)
        if image is None:
            return
        factor = 2.0
        if self.width is not None:
            factor = self.width / image.width
        elif self.height is not None:
            factor = self.height / image.height
        pixels = round(image.width * factor) * round(image.height * factor)
        if pixels > MAX_OUTPUT_PIXELS:
            given = f"given {image.width} x {image.height}, which makes {pixels} pixels"
            yield FieldProblem("image", given, f"a result of up to {MAX_OUTPUT_PIXELS} pixels")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that the key may use.

    Attributes:
        id: What `engine_id` takes.
        name: For people.
        description: For people.
        type: What it makes, such as PICTURE.
    """

    id: str
    name: str
    description: str
    type: str


@dataclass(frozen=True, slots=True)
class _Engines:
    engines: list[Engine]


class V1Engines(WholeRequest[list[Engine]]):
    """The engines that the key, or the organization that the client names, may use. Free."""

    asked: ClassVar[Asked] = "read"
    operation: ClassVar[Operation] = Operation(
        id="v1_engines_list",
        path="/v1/engines/list",
        credits=0,
        output="the engines of the account",
        method="GET",
        accept=("application/json",),
        organization=True,
    )

    def read(self, answer: Answer) -> list[Engine]:
        # The documents have a bare list; one official sample reads it from a key.
        if answer.body.lstrip().startswith(b"{"):
            return read_as(_Engines, answer).engines
        return read_as(list[Engine], answer)
