"""Formats and sizes are read from headers as a decoder reads them, and never crash."""

from __future__ import annotations

import io
import struct

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.api.file_limits import FileHead, ImageLimits
from stable_async.image_header import ImageHeader, read_image_header
from tests.samples import png_header, sample_image

SIDES = st.integers(1, 300)
KINDS = {"png": {}, "jpeg": {}, "webp": {}, "webp-lossless": {"lossless": True}}


def encoded(kind: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    image = PIL.Image.new(mode, (width, height))
    image.save(file, kind.partition("-")[0], **(KINDS[kind] | options))
    return file.getvalue()


@given(st.sampled_from(sorted(KINDS)), SIDES, SIDES)
def test_format_and_size_are_what_a_decoder_says(kind: str, width: int, height: int) -> None:
    data = encoded(kind, width, height)
    assert read_image_header(data) == ImageHeader(kind.partition("-")[0], width, height)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("webp", {"mode": "RGBA"}),
        ("webp", {"exif": b"Exif\0\0" + bytes(90)}),
        ("webp", {"icc_profile": bytes(200)}),
        ("jpeg", {"progressive": True}),
        ("jpeg", {"exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(200_000)}),
        ("jpeg", {"comment": b"\xff\xc0 is no start of a frame here"}),
        ("jpeg", {"mode": "L"}),
        ("jpeg", {"mode": "CMYK"}),
        ("png", {"mode": "P"}),
    ],
)
def test_what_stands_before_the_size_is_passed_over(kind: str, options: dict[str, object]) -> None:
    data = encoded(kind, 123, 45, **options)  # type: ignore[arg-type]
    assert read_image_header(data) == ImageHeader(kind, 123, 45)  # type: ignore[arg-type]


@given(st.sampled_from(sorted(KINDS)), SIDES, SIDES, st.data())
def test_a_part_of_a_header_asks_for_more_or_says_the_same(
    kind: str, width: int, height: int, data: st.DataObject
) -> None:
    whole = encoded(kind, width, height)
    part = whole[: data.draw(st.integers(0, min(len(whole), 700)))]
    try:
        found = read_image_header(part)
    except EOFError:
        return
    assert found == read_image_header(whole)


@given(st.binary(max_size=200), st.sampled_from(sorted(KINDS)), st.integers(0, 40))
def test_damage_gives_an_image_or_none_and_no_other_error(
    noise: bytes, kind: str, keep: int
) -> None:
    try:
        read_image_header(encoded(kind, 10, 10)[:keep] + noise)
    except EOFError:
        pass


def test_junk_between_segments_is_skipped_as_decoders_do() -> None:
    whole = encoded("jpeg", 30, 20)
    assert read_image_header(whole[:2] + b"\xff\xff\xff" + whole[2:]) == ImageHeader("jpeg", 30, 20)
    (length,) = struct.unpack_from(">H", whole, 4)
    end = 4 + length
    assert read_image_header(whole[:end] + b"\0\0" + whole[end:]) == ImageHeader("jpeg", 30, 20)


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff", "ico"])
def test_other_formats_are_none(kind: str) -> None:
    assert read_image_header(sample_image(kind=kind)) is None


LIMITS = ImageLimits(min_side=64, max_side=2_000, max_pixels=1_000_000, aspect_ratio=(0.4, 2.5))


@pytest.mark.parametrize(
    ("width", "height", "allowed"),
    [
        (64, 64, None),
        (63, 100, "sides of 64 pixels or more"),
        (2_001, 100, "sides of up to 2000 pixels"),
        (1_001, 1_000, "up to 1000000 pixels in all"),
        (251, 100, "a width of 0.4 to 2.5 times the height"),
        (100, 251, "a width of 0.4 to 2.5 times the height"),
    ],
)
def test_a_problem_says_what_was_given_and_what_is_allowed(
    width: int, height: int, allowed: str | None
) -> None:
    data = png_header(width, height)
    problem = LIMITS.problem("image", FileHead(data, complete=True, size=len(data)))
    if allowed is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.given == f"given {width} x {height} pixels"
        assert problem.allowed == allowed


def test_a_file_that_ends_in_its_header_is_refused_when_it_is_all_there_is() -> None:
    part = png_header(64, 64)[:20]
    with pytest.raises(EOFError):
        LIMITS.problem("image", FileHead(part, complete=False, size=None))
    problem = LIMITS.problem("image", FileHead(part, complete=True, size=20))
    assert problem is not None
    assert "ends in its header" in problem.given
