"""Bodies as clients write them: recorded bytes of four of them, and the browsers' rules."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.sandbox.forms import BodyError, BodyTooLargeError, Form, read_form
from tests.sandbox.support import BOUNDARY, multipart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TYPE = f"multipart/form-data; boundary={BOUNDARY}"


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read(
    body: bytes,
    content_type: str = TYPE,
    *,
    limit: int = 1 << 24,
    size: int = 997,
    files: frozenset[str] = frozenset(),
) -> Form:
    return await read_form(content_type, in_pieces(body, size), limit, files)


names = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "none")
sizes = st.integers(1, 64)


def survives_quoting(name: str) -> bool:
    # These cannot be told from what they stand for; browsers lose them as well.
    # A backslash may be an escape, as aiohttp and older curls write it.
    return not any(escape in name for escape in ("%22", "%0D", "%0A", "%5C", "\\"))


@given(
    st.dictionaries(
        names.filter(survives_quoting), st.text(st.characters(codec="utf-8")), max_size=4
    ),
    st.dictionaries(
        names.filter(survives_quoting),
        st.tuples(names.filter(survives_quoting), st.binary(max_size=300)),
        max_size=3,
    ),
    sizes,
)
async def test_what_a_browser_writes_is_what_is_read(
    fields: dict[str, str], files: dict[str, tuple[str, bytes]], size: int
) -> None:
    form = await read(multipart(fields, files), size=size)
    assert form.texts == fields
    assert {name: (file.filename, file.read()) for name, file in form.files.items()} == files
    for name, (_, data) in files.items():
        assert form.files[name].size == len(data)
        assert form.files[name].sha256 == hashlib.sha256(data).hexdigest()
    form.close()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\\b.png", r"a\b.png"),  # escaped, as RFC 9110 has it
        (r"a\"b\".png", 'a"b".png'),
        (r"a\b.png", r"a\b.png"),  # as browsers send it
        ("a%5Cb.png", r"a\b.png"),
        ("a\\", "a\\"),
    ],
)
async def test_backslashes_are_read_as_they_may_be_meant(written: str, meant: str) -> None:
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{written}"'
        f"\r\n\r\nx\r\n--{BOUNDARY}--\r\n"
    )
    form = await read(body.encode())
    assert {name: (file.filename, file.read()) for name, file in form.files.items()} == {
        "image": (meant, b"x")
    }
    form.close()


PROMPT = b"un phare \xc3\xa0 l'aube\r\n"
PNG = b"\x89PNG\r\n\x1a\n"

# Recorded. curl 7.88: -F prompt=... -F 'image=@img.png;filename="a \"b\".png"'
CURL = (
    b"--------------------------0e934f4585e95c29\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + PROMPT +
    b"--------------------------0e934f4585e95c29\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a %22b%22.png"\r\n'
    b"Content-Type: image/png\r\n\r\n" + PNG + b"\r\n"
    b"--------------------------0e934f4585e95c29--\r\n"
)  # fmt: skip
# requests 2.34: files={"none": "", "image": ('a "b".png', file)}, data={"prompt": ...}
REQUESTS = (
    b"--ee70edbe0846e5671d6789ce39ccc3a1\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + PROMPT +
    b"--ee70edbe0846e5671d6789ce39ccc3a1\r\n"
    b'Content-Disposition: form-data; name="none"; filename="none"\r\n\r\n\r\n'
    b"--ee70edbe0846e5671d6789ce39ccc3a1\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a %22b%22.png"\r\n\r\n' + PNG +
    b"\r\n--ee70edbe0846e5671d6789ce39ccc3a1--\r\n"
)  # fmt: skip
# Node 20: FormData, append("image", new Blob([...]), 'a "b".png')
NODE = (
    b"------formdata-undici-091244486924\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + PROMPT +
    b"------formdata-undici-091244486924\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a %22b%22.png"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + PNG +
    b"\r\n------formdata-undici-091244486924--\r\n"
)  # fmt: skip
# aiohttp 3.14: FormData(quote_fields=False)
AIOHTTP = (
    b"--98120eabc3654a88a8fa33c1535c6a85\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + PROMPT +
    b"--98120eabc3654a88a8fa33c1535c6a85\r\n"
    b"Content-Type: image/png\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a \\"b\\".png"\r\n\r\n' + PNG +
    b"\r\n--98120eabc3654a88a8fa33c1535c6a85--\r\n"
)  # fmt: skip
# Before 1.25, urllib3 wrote file names that are not ASCII in the way of RFC 5987.
OLD_REQUESTS = REQUESTS.replace(b'filename="a %22b%22.png"', b"filename*=utf-8''a%20%22b%22.png")
BODIES = {
    "curl": CURL,
    "requests": REQUESTS,
    "node": NODE,
    "aiohttp": AIOHTTP,
    "old requests": OLD_REQUESTS,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
async def test_bodies_of_common_clients_are_read(body: bytes, size: int) -> None:
    boundary = body.split(b"\r\n")[0].removeprefix(b"--").decode()
    form = await read(
        body, f'multipart/form-data; boundary="{boundary}"', size=size, files=frozenset({"image"})
    )
    assert form.texts == {"prompt": "un phare à l'aube"}
    assert form.files.keys() == {"image"}
    # RFC 7578 forbids the way of the old requests, and the parser reads no name in it.
    assert form.files["image"].filename == ("" if body is OLD_REQUESTS else 'a "b".png')
    assert form.files["image"].read() == PNG
    form.close()


async def test_a_file_without_a_name_and_content_is_no_file() -> None:
    form = await read(multipart({}, {"image": ("", b""), "mask": ("empty.png", b"")}))
    assert form.files.keys() == {"mask"}
    form.close()


async def test_of_two_parts_with_one_name_the_later_counts() -> None:
    end = f"--{BOUNDARY}--\r\n".encode()
    twice = multipart({"prompt": "one"}, {"image": ("1", b"1")}).removesuffix(end)
    form = await read(twice + multipart({"prompt": "two"}, {"image": ("2", b"2")}))
    assert form.texts == {"prompt": "two"}
    assert form.files["image"].filename == "2"
    form.close()


async def test_a_text_that_is_no_utf8_is_a_problem_of_its_field() -> None:
    form = await read(multipart({"prompt": b"\xff\xfe"}))
    assert form.problems == ["prompt: must be UTF-8 text"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=\udc80",
        "multipart/form-data",
        "multipart/mixed; boundary=x",
    ],
)
async def test_only_multipart_forms_are_read(content_type: str) -> None:
    with pytest.raises(BodyError, match="content-type: must be multipart/form-data"):
        await read(b"prompt=x", content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"prompt=x",
        multipart({"prompt": "x"})[:-4],
        multipart({"prompt": "x"})[:40],
        multipart({"prompt": "x"}).replace(b'; name="prompt"', b""),
        multipart({"prompt": "x"}).replace(b"Content-Disposition: ", b"Content-Disposition\xff "),
        multipart({str(number): "" for number in range(1001)}),
        multipart({"n" * 20_000: "x"}),
    ],
)
async def test_a_broken_body_is_refused(body: bytes) -> None:
    with pytest.raises(BodyError, match="body: "):
        await read(body)


@given(st.binary(max_size=200), sizes)
async def test_no_bytes_do_anything_else(noise: bytes, size: int) -> None:
    for body in (noise, multipart({"prompt": "x"})[: len(noise)] + noise):
        try:
            form = await read(body, size=size)
        except BodyError:
            continue
        form.close()


async def test_reading_stops_at_the_byte_that_is_one_too_many() -> None:
    body = multipart({}, {"image": ("a", b"x" * 10_000)})
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        async for chunk in in_pieces(body, 100):
            sent += len(chunk)
            yield chunk

    with pytest.raises(BodyTooLargeError):
        await read_form(TYPE, chunks(), 5_000)
    assert sent <= 5_100
    form = await read(body, limit=len(body))
    form.close()


@pytest.mark.parametrize("size", [100, 1 << 20])
async def test_of_a_text_that_is_too_long_the_beginning_is_kept(size: int) -> None:
    form = await read(multipart({"prompt": "x" + "é" * 100_000}), size=size)
    assert form.texts["prompt"] == "x" + "é" * 32_767
    assert not form.problems


async def test_a_header_made_to_be_slow_is_read_at_once() -> None:
    for filler in (" ", "\\", "; a=", ';a="'):
        head = f'form-data; name="a"; x={filler * (3_000 // len(filler))}"'
        body = multipart({}).replace(
            b"--\r\n", f"\r\nContent-Disposition: {head}\r\n\r\n\r\n--{BOUNDARY}--\r\n".encode()
        )
        form = await read(body)
        assert form.texts == {"a": ""}
