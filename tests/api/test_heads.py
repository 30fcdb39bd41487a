"""Files are checked before anything is sent, by as many of their first bytes as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stable_async import (
    AudioToAudio,
    Erase,
    InvalidRequestError,
    StabilityClient,
    UpscaleFast,
    V1Masking,
    V1Upscale,
)
from stable_async.transport.multipart import HEAD_SIZES, MultipartForm, body_of
from tests.samples import mp3, png_header, sample_image, wav

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.api.audio import AudioModel
    from stable_async.api.base import Request


async def opened(request: Request[Any]) -> None:
    body, _ = body_of(request)
    assert isinstance(body, MultipartForm)
    try:
        await body.open()
    finally:
        await body.close()


async def fields_refused(request: Request[Any]) -> list[str]:
    with pytest.raises(InvalidRequestError) as caught:
        await opened(request)
    return [problem.field for problem in caught.value.problems]


def jpeg_with_long_header(length: int, width: int = 64) -> bytes:
    """Return a JPEG whose size stands after `length` bytes of metadata."""
    plain = sample_image(width, 64, "jpeg")
    segment = b"\xff\xe1\xff\xff" + bytes(0xFFFF - 2)
    return plain[:2] + segment * (length // len(segment) + 1) + plain[2:]


@pytest.mark.parametrize("length", [0, HEAD_SIZES[0], HEAD_SIZES[-1] // 2])
async def test_a_long_header_is_read_on(length: int) -> None:
    await opened(UpscaleFast(image=jpeg_with_long_header(length)))
    assert await fields_refused(UpscaleFast(image=jpeg_with_long_header(length, 31))) == ["image"]


async def test_a_header_longer_than_any_is_left_to_the_api() -> None:
    await opened(UpscaleFast(image=jpeg_with_long_header(HEAD_SIZES[-1], 31)))


async def test_an_image_that_is_read_once_is_looked_at_too() -> None:
    def pieces(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 10):
            yield data[start : start + 10]

    await opened(UpscaleFast(image=pieces(sample_image())))
    assert await fields_refused(UpscaleFast(image=pieces(sample_image(31, 64)))) == ["image"]


async def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    image_in_disguise, text_in_disguise = tmp_path / "notes.txt", tmp_path / "picture.png"
    image_in_disguise.write_bytes(sample_image())
    text_in_disguise.write_bytes(b"these are only notes, and no picture")
    await opened(Erase(image=image_in_disguise))
    assert await fields_refused(Erase(image=text_in_disguise)) == ["image"]


async def test_nothing_is_sent_when_a_file_is_refused() -> None:
    async with StabilityClient("sk-key", base_url="http://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError):
            await client.edit.erase(b"no picture at all")
        statistics = client.quota_statistics()
    assert statistics is not None
    assert statistics.in_window == 0


@pytest.mark.parametrize(
    ("model", "seconds", "good"),
    [
        (None, 190, True),
        (None, 191, False),
        ("stable-audio-2.5", 191, False),
        ("stable-audio-3", 191, True),
        ("stable-audio-3", 381, False),
        (None, 5, False),
    ],
)
async def test_the_longest_audio_depends_on_the_model(
    model: AudioModel | None, seconds: int, good: bool
) -> None:
    request = AudioToAudio(prompt="rain", audio=wav(seconds), model=model)
    if good:
        await opened(request)
    else:
        assert await fields_refused(request) == ["audio"]


async def test_the_length_of_an_mp3_is_left_to_the_api() -> None:
    await opened(AudioToAudio(prompt="rain", audio=mp3(1)))


PROMPTS: Any = [{"text": "x"}]


async def test_a_mask_has_the_size_of_its_image() -> None:
    def masked(width: int, height: int) -> V1Masking:
        return V1Masking(
            engine_id="stable-inpainting-512-v2-0",
            text_prompts=PROMPTS,
            init_image=sample_image(64, 80),
            mask_source="MASK_IMAGE_WHITE",
            mask_image=sample_image(width, height),
        )

    await opened(masked(64, 80))
    assert await fields_refused(masked(80, 64)) == ["mask_image"]


@pytest.mark.parametrize(
    ("sides", "asked", "good"),
    [
        ((1024, 1024), {}, True),
        ((1024, 1025), {}, False),
        ((100, 100), {"width": 2048}, True),
        ((100, 100), {"width": 2049}, False),
        ((100, 400), {"height": 2048}, True),
        ((100, 400), {"width": 1024}, True),
        ((100, 400), {"width": 1025}, False),
    ],
)
async def test_an_upscaled_image_has_so_many_pixels_at_most(
    sides: tuple[int, int], asked: dict[str, Any], good: bool
) -> None:
    request = V1Upscale(engine_id="esrgan-v1-x2plus", image=png_header(*sides), **asked)
    if good:
        await opened(request)
    else:
        assert await fields_refused(request) == ["image"]
