"""Uploads are recognised by content; results are what their type says."""

from __future__ import annotations

import io
import json
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stable_async.sandbox.media_info import audio_info, image_info
from stable_async.sandbox.render.audio import mp3, wav
from stable_async.sandbox.render.models import glb
from tests.sandbox.support import OPERATIONS, Caller, sample_audio, sample_image


def heard(data: bytes) -> tuple[str, float] | None:
    found = audio_info(io.BytesIO(data))
    return None if found is None else (found.format, round(found.seconds, 2))


def about(kind: str, seconds: float) -> tuple[str, object]:
    """Lengths are estimated by a frame or two."""
    return kind, pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize(
    ("fmt", "modes"),
    [
        ("PNG", ["RGB", "RGBA", "LA", "P", "1", "I;16"]),
        ("JPEG", ["RGB", "L", "CMYK"]),
        ("WEBP", ["RGB"]),
    ],
)
def test_images_are_told_by_their_header(fmt: str, modes: list[str]) -> None:
    for mode in modes:
        out = io.BytesIO()
        Image.new(mode, (96, 64)).save(out, fmt)
        found = image_info(out)
        assert found is not None
        assert (found.format, found.width, found.height) == (fmt.lower(), 96, 64)


def test_other_formats_are_no_images() -> None:
    for fmt in ("GIF", "BMP", "TIFF"):
        assert image_info(io.BytesIO(sample_image(96, 64, fmt))) is None


@given(st.binary(max_size=400))
def test_no_bytes_break_the_probes(noise: bytes) -> None:
    for head in (
        b"",
        sample_image()[:40],
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"ID3\4\0\0\0\0\0\1",
    ):
        image_info(io.BytesIO(head + noise))
        heard(head + noise)


def test_audio_is_recognised_by_its_header() -> None:
    assert heard(sample_audio(7.5)) == ("wav", 7.5)
    assert heard(sample_image()) is None
    assert heard(b"") is None


def test_a_wav_of_unknown_length_is_as_long_as_its_data() -> None:
    streamed = sample_audio(7.0)
    streamed = streamed[:40] + b"\xff\xff\xff\xff" + streamed[44:]
    assert heard(streamed) == about("wav", 7.0)


def test_an_mp3_is_as_long_as_its_bit_rate_or_its_xing_count_says() -> None:
    # MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes a frame.
    frame = bytes((0xFF, 0xFB, 0x90, 0x00)).ljust(417, b"\0")
    seconds = 400 * 1152 / 44_100
    assert heard(frame * 400) == about("mp3", seconds)
    tag = b"ID3\4\0\0" + bytes((0, 0, 1, 0)) + b"\0" * 128
    assert heard(tag + b"\0" * 20 + frame * 400) == about("mp3", seconds)
    xing = frame[:36] + b"Xing" + struct.pack(">III", 3, 1000, 417_000) + frame[52:]
    assert heard(xing + frame * 400) == about("mp3", 1000 * 1152 / 44_100)


def test_a_wav_is_44_kilohertz_stereo_and_at_most_a_second_long() -> None:
    with wave.open(io.BytesIO(wav(190, 7))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        assert file.getnframes() == 44_100
        assert any(file.readframes(44_100))


def test_an_mp3_is_whole_frames_after_its_tag() -> None:
    data = mp3(190, 7, "pluie sur un toit, été")
    assert "été".encode() in data
    assert heard(data) == ("mp3", round(38 * 104 * 8 / 32_000, 2))


def chunks_of(model: bytes) -> tuple[dict[str, object], bytes]:
    magic, version, length = struct.unpack("<4sII", model[:12])
    assert (magic, version, length) == (b"glTF", 2, len(model))
    size, kind = struct.unpack("<I4s", model[12:20])
    assert (kind, size % 4) == (b"JSON", 0)
    binary_size, binary_kind = struct.unpack("<I4s", model[20 + size : 28 + size])
    assert (binary_kind, binary_size) == (b"BIN\0", len(model) - 28 - size)
    return json.loads(model[20 : 20 + size]), model[28 + size :]


async def test_a_model_carries_the_image_as_a_texture_of_the_resolution_asked_for(
    caller: Caller,
) -> None:
    reply = await caller.operate(OPERATIONS["stable_fast_3d"], {"texture_resolution": "512"})
    assert reply.headers["Content-Type"] == "model/gltf-binary"
    document, binary = chunks_of(reply.body)
    views = document["bufferViews"]
    assert isinstance(views, list)
    texture = binary[views[4]["byteOffset"] :][: views[4]["byteLength"]]
    found = image_info(io.BytesIO(texture))
    assert found is not None
    assert (found.width, found.height) == (512, 512)


@given(st.integers(1, 5000), st.integers(1, 5000), st.binary(max_size=30), st.text(max_size=20))
def test_the_parts_of_a_model_are_aligned_whatever_is_in_it(
    width: int, height: int, texture: bytes, name: str
) -> None:
    document, binary = chunks_of(glb(texture, "image/jpeg", width, height, name))
    views = document["bufferViews"]
    assert isinstance(views, list)
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert views[-1]["byteOffset"] + views[-1]["byteLength"] <= len(binary)
