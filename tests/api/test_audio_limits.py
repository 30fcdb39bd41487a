"""Audio formats are recognised by content, and the length of a WAV file by its header."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.api.file_limits import AudioLimits, FileHead, wav_seconds
from tests.samples import mp3, sample_image, wav


def head(data: bytes, size: int | None = None) -> FileHead:
    return FileHead(data, complete=True, size=len(data) if size is None else size)


@given(st.integers(1, 3_000), st.sampled_from([1_000, 8_000, 44_100]))
def test_the_length_of_a_wav_is_its_samples_over_its_rate(samples: int, rate: int) -> None:
    data = wav(samples / rate, rate)
    assert wav_seconds(head(data)) == pytest.approx(samples / rate)


def test_other_chunks_may_stand_before_the_audio() -> None:
    data = wav(3)
    listed = data[:36] + b"LIST" + struct.pack("<I", 5) + b"abcde\0" + data[36:]
    assert wav_seconds(head(listed)) == 3


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_stream_of_unknown_length_goes_by_the_size_of_the_file(length: int) -> None:
    data = wav(3)
    streamed = data[:40] + struct.pack("<I", length) + data[44:]
    assert wav_seconds(head(streamed)) == 3
    assert wav_seconds(FileHead(streamed, complete=False, size=None)) is None


@pytest.mark.parametrize("data", [wav(1), mp3(1), b"ID3\x04" + bytes(20)])
def test_audio_is_recognised_by_content(data: bytes) -> None:
    assert AudioLimits(0, 10).problem("audio", head(data)) is None


@pytest.mark.parametrize(
    "data", [sample_image(), sample_image(kind="jpeg"), sample_image(kind="webp"), b"", wav(1)[:11]]
)
def test_anything_else_is_refused(data: bytes) -> None:
    problem = AudioLimits(0, 10).problem("audio", head(data))
    assert problem is not None
    assert problem.given == "given another kind of file"


@given(st.binary(max_size=100), st.integers(0, 60))
def test_damage_gives_a_length_or_none_and_no_other_error(noise: bytes, keep: int) -> None:
    data = wav(1)[:keep] + noise
    limits = AudioLimits(6, 190)
    limits.problem("audio", head(data))
    try:
        limits.problem("audio", FileHead(data, complete=False, size=None))
    except EOFError:
        pass
