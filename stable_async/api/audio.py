"""Requests that make audio: Stable Audio 2, 2.5 and 3. The model decides where a request goes.

Stable Audio 3 is asynchronous and has addresses and limits of its own; the older two share theirs.
Facts: OpenAPI document of api.stability.ai, read 2026-09-22, and the price list of 2026-09.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stable_async.api.base import MAX_REQUEST_BYTES, MediaRequest, Operation
from stable_async.api.fields import Seed, Text, UnitInterval
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.file_limits import AudioLimits, FileHead
from stable_async.api.results import AudioResult
from stable_async.errors import FieldProblem
from stable_async.media import Audio, Media

__all__ = ["AudioFormat", "AudioInpaint", "AudioModel", "AudioToAudio", "TextToAudio"]

AudioFormat = Literal["mp3", "wav"]
"""Format of generated audio."""

AudioModel = Literal["stable-audio-2.5", "stable-audio-2", "stable-audio-3"]
"""Models that make audio."""

ACCEPT = ("audio/*", "application/json")
# The document says "50Mb" and "100Mb": read as the smaller number of bytes.
MAX_BYTES_2 = 50_000_000
MAX_BYTES_3 = 100_000_000
CREDITS_2_5 = 20
CREDITS_3 = 26

Seconds = Annotated[float, Field(ge=1, le=380)]
Position = Annotated[float, Field(ge=0, le=380)]
Steps = Annotated[int, Field(ge=4, le=100)]
AudioCfgScale = Annotated[float, Field(ge=1, le=25)]


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one model takes: the longest duration in seconds, and the fewest and the most steps."""

    seconds: int
    steps: tuple[int, int]


_LIMITS: dict[AudioModel, _Limits] = {
    "stable-audio-2": _Limits(190, (30, 100)),
    "stable-audio-2.5": _Limits(190, (4, 8)),
    "stable-audio-3": _Limits(380, (4, 8)),
}


def _too_long(model: AudioModel, **seconds: float | None) -> Iterator[FieldProblem]:
    """Yield a problem for each duration that another model allows and `model` does not."""
    longest = _LIMITS[model].seconds
    for name, value in seconds.items():
        if value is not None and value > longest:
            yield FieldProblem(name, f"given {value:g}", f"up to {longest} seconds with {model}")


def _operations(name: str, price: float | None, *, uploads: bool) -> tuple[Operation, Operation]:
    """Return the operation of Stable Audio 2 and 2.5, and that of Stable Audio 3.

    `price` is that of the first; `None` where the model decides it.
    """
    path = name.replace("_", "-")
    two = Operation(
        id=f"stable_audio_2_{name}",
        path=f"/v2beta/audio/stable-audio-2/{path}",
        credits=price,
        output="44.1 kHz stereo, up to 190 s",
        accept=ACCEPT,
        max_bytes=MAX_BYTES_2 if uploads else MAX_REQUEST_BYTES,
    )
    three = replace(
        two,
        id=f"stable_audio_{name}",
        path=f"/v2beta/audio/stable-audio/{path}",
        credits=CREDITS_3,
        output="44.1 kHz stereo, up to 380 s",
        max_bytes=MAX_BYTES_3 if uploads else MAX_REQUEST_BYTES,
        result=AudioResult,
    )
    return two, three


class _GenerateAudio(MediaRequest[Audio]):
    """The fields that text-to-audio and audio-to-audio share."""

    media: ClassVar[type[Media]] = Audio

    prompt: Text
    duration: Seconds | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    cfg_scale: AudioCfgScale | None = None
    model: AudioModel | None = None
    output_format: AudioFormat | None = None

    operations: ClassVar[tuple[Operation, Operation]]

    @property
    def operation(self) -> Operation:
        """The operation of `model`: Stable Audio 2 and 2.5 share one."""
        return self.operations[self.model == "stable-audio-3"]

    @property
    def credits(self) -> float:
        """List price: 17 and 0.06 for each step with stable-audio-2, 20 with 2.5, 26 with 3."""
        match self.model:
            case "stable-audio-3":
                return CREDITS_3
            case "stable-audio-2.5":
                return CREDITS_2_5
            case _:
                steps = 50 if self.steps is None else self.steps
                return round(17 + 0.06 * steps, 2)

    def broken_rules(self) -> Iterator[FieldProblem]:
        model = self.model or "stable-audio-2"
        yield from _too_long(model, duration=self.duration)
        fewest, most = _LIMITS[model].steps
        if self.steps is not None and not fewest <= self.steps <= most:
            yield FieldProblem("steps", f"given {self.steps}", f"{fewest} to {most} with {model}")


class TextToAudio(_GenerateAudio):
    """Audio from text. 18.8 to 26 credits; 44.1 kHz stereo, up to 190 s, 380 s with version 3.

    Asynchronous with stable-audio-3.

    Attributes:
        prompt: Up to 10,000 characters.
        duration: Seconds, 1 to 190, with stable-audio-3 to 380; the API's default is 190.
        seed: 0 to 4294967294; 0 or not given is random.
        steps: 30 to 100 with stable-audio-2, whose default is 50; else 4 to 8, the default.
        cfg_scale: How closely to follow the prompt, 1 to 25; the API's default is 7 for
            stable-audio-2, 1 for the others.
        model: The API's default is stable-audio-2.
        output_format: The API's default is mp3.
    """

    operations: ClassVar[tuple[Operation, Operation]] = _operations(
        "text_to_audio", None, uploads=False
    )


class AudioToAudio(_GenerateAudio):
    """Audio from text and other audio. 18.8 to 26 credits; 44.1 kHz stereo, up to 190 s, 380 s with
    version 3. Asynchronous with stable-audio-3.

    Attributes:
        prompt: Up to 10,000 characters.
        audio: MP3 or WAV, 6 to 190 seconds, with stable-audio-3 to 380. The length of an MP3 is
            left to the API. The whole request has up to 50 MB, with stable-audio-3 100 MB.
        duration: Seconds, 1 to 190, with stable-audio-3 to 380; the API's default is 190.
        seed: 0 to 4294967294; 0 or not given is random.
        steps: 30 to 100 with stable-audio-2, whose default is 50; else 4 to 8, the default.
        cfg_scale: How closely to follow the prompt, 1 to 25; the API's default is 7 for
            stable-audio-2, 1 for the others.
        model: The API's default is stable-audio-2.
        output_format: The API's default is mp3.
        strength: How far to move away from `audio`: 0 keeps it, 1 (the API's default) ignores it;
            0.01 or more with stable-audio-2.5.
    """

    operations: ClassVar[tuple[Operation, Operation]] = _operations(
        "audio_to_audio", None, uploads=True
    )

    audio: Annotated[FileInput, FilePart()] = Field(repr=False)
    strength: UnitInterval | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        yield from super().broken_rules()
        if self.model == "stable-audio-2.5" and self.strength is not None and self.strength < 0.01:
            yield FieldProblem(
                "strength", f"given {self.strength:g}", "0.01 to 1 with stable-audio-2.5"
            )

    def broken_file_rules(self, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
        yield from _broken_audio(self.model or "stable-audio-2", heads)


class AudioInpaint(MediaRequest[Audio]):
    """Audio with one part regenerated. 20 credits, 26 with stable-audio-3; 44.1 kHz stereo,
    up to 190 s, 380 s with version 3. Asynchronous with stable-audio-3.

    Attributes:
        prompt: Up to 10,000 characters.
        audio: MP3 or WAV, 6 to 190 seconds, with stable-audio-3 to 380. The length of an MP3 is
            left to the API. The whole request has up to 50 MB, with stable-audio-3 100 MB.
        model: stable-audio-2.5 by default; version 2 does not do this.
        duration: Seconds, 1 to 190, with stable-audio-3 to 380; the API's default is 190.
        seed: 0 to 4294967294; 0 or not given is random.
        steps: 4 to 8, the API's default.
        cfg_scale: How closely to follow the prompt, 1 (the API's default) to 25. Only with
            stable-audio-3.
        output_format: The API's default is mp3.
        mask_start: Where the part begins, seconds; the API's default is 30.
        mask_end: Where it ends, seconds, up to 190, with stable-audio-3 to 380, which are the
            API's defaults.
    """

    operations: ClassVar[tuple[Operation, Operation]] = _operations(
        "inpaint", CREDITS_2_5, uploads=True
    )
    media: ClassVar[type[Media]] = Audio

    prompt: Text
    audio: Annotated[FileInput, FilePart()] = Field(repr=False)
    model: Literal["stable-audio-2.5", "stable-audio-3"] | None = None
    duration: Seconds | None = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=4, le=8)] | None = None
    cfg_scale: AudioCfgScale | None = None
    output_format: AudioFormat | None = None
    mask_start: Position | None = None
    mask_end: Position | None = None

    @property
    def operation(self) -> Operation:
        """The operation of `model`."""
        return self.operations[self.model == "stable-audio-3"]

    def fields(self) -> dict[str, object]:
        """Omit `model` where the API has no such field."""
        given = super().fields()
        if given.get("model") != "stable-audio-3":
            given.pop("model", None)
        return given

    def broken_rules(self) -> Iterator[FieldProblem]:
        model = self.model or "stable-audio-2.5"
        yield from _too_long(
            model, duration=self.duration, mask_start=self.mask_start, mask_end=self.mask_end
        )
        if self.cfg_scale is not None and model != "stable-audio-3":
            given = f"given {self.cfg_scale:g}"
            yield FieldProblem("cfg_scale", given, "only with model='stable-audio-3'")

    def broken_file_rules(self, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
        yield from _broken_audio(self.model or "stable-audio-2.5", heads)


def _broken_audio(model: AudioModel, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
    limits = AudioLimits(6, _LIMITS[model].seconds)
    for name, head in heads.items():
        if problem := limits.problem(name, head):
            yield problem
