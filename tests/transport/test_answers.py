"""Every answer is judged for what it is, over real sockets; nothing that was paid is lost."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_async import (
    APIConnectionError,
    APIStatusError,
    GenerateCore,
    Image,
    ImageResult,
    InvalidResponseError,
    PaymentRequiredError,
    RetryPolicy,
    StabilityClient,
    StabilityError,
    StableFast3D,
    TextToAudio,
    Timeouts,
    UpscaleCreative,
    V1TextToImage,
    errors,
)
from stable_async.transport import operation, session
from stable_async.web import to_http_status
from tests.raw_server import answer, raw_server
from tests.samples import mp3, png, sample_image, wav

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.api.base import Request
    from tests.raw_server import Connection

pytestmark = pytest.mark.usefixtures("nothing_leaks")

KEY = "sk-0123456789abcdef"
PNG = sample_image()
GLB = b"glTF\x02\x00\x00\x00" + (100).to_bytes(4, "little") + bytes(88)
FILES = {"png": PNG, "jpeg": sample_image(kind="jpeg"), "wav": wav(1), "mp3": mp3(0.1), "glb": GLB}


class Sample(TypedDict):
    """A row of answers.yaml."""

    at: str
    status: int
    type: NotRequired[str]
    body: NotRequired[str]
    headers: NotRequired[dict[str, str]]
    error: NotRequired[str]
    result: NotRequired[str]
    attempts: NotRequired[int]
    web: NotRequired[int]
    says: NotRequired[str]


SAMPLES: list[Sample] = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text())


def filled(text: str) -> bytes:
    """Return the body that a sample describes."""

    def file(match: re.Match[bytes]) -> bytes:
        content = FILES[match[2].decode()]
        match match[1]:
            case b"base64:":
                return base64.b64encode(content)
            case b"lines:":
                return base64.encodebytes(content).replace(b"\n", b"\\n")
            case _:
                return content

    return re.sub(rb"<(base64:|lines:)?(png|jpeg|wav|mp3|glb)>", file, text.encode())


def whole(sample: Sample) -> bytes:
    """Return the bytes of the answer that a sample describes."""
    headers = "".join(f"{name}: {text}\r\n" for name, text in sample.get("headers", {}).items())
    return answer(
        filled(sample.get("body", "")),
        status=f"{sample['status']} Whatever",
        content_type=sample.get("type", "application/json"),
        headers=headers,
    )


def client(url: str, **settings: object) -> StabilityClient:
    retry = RetryPolicy(attempts=3, initial_backoff=0)
    return StabilityClient(KEY, base_url=url, quota=None, retry=retry, **settings)  # type: ignore[arg-type]


class Server:
    """Answers every request with the same bytes, each on a connection of its own."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests = 0

    async def __call__(self, connection: Connection) -> None:
        await connection.request()
        self.requests += 1
        reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await connection.send(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


def name_of(sample: Sample) -> str:
    body = sample.get("body", "")[:40]
    return f"{sample['at']} {sample['status']} {body}"


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
async def test_an_answer_is_judged_for_what_it_is(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(whole(sample))
    request: Request[Image] = GenerateCore(prompt="x")
    if sample["at"] == "look":
        request = ImageResult(id="7f")
    monkeypatch.setattr(session, "DOCUMENTED_PENALTY", 0.0)  # a penalty is over at once here
    async with raw_server(server) as url, client(url, poll_interval=0) as one:
        if sample["at"] == "look":
            result = await outcome(one.poll(cast("ImageResult", request)))
        else:
            result = await outcome(one.send(request))
    if "result" in sample:
        assert isinstance(result, Image), result
        assert (result.content_type, result.data) == (
            sample["result"],
            FILES[sample["result"].removeprefix("image/")],
        )
        return
    assert isinstance(result, APIStatusError | InvalidResponseError), result
    if "error" in sample:
        assert type(result) is getattr(errors, sample["error"])
    facts = {
        "from": "api" if result.from_api else "edge",
        "billed": result.verdict.billed,
        "concerns": result.concerns,
        "penalty": result.verdict.penalty,
        "job": result.verdict.job,
        "attempts": server.requests,
        "web": to_http_status(result),
    }
    asserted = {name: value for name, value in sample.items() if name in facts}
    assert {name: facts[name] for name in asserted} == asserted
    assert sample.get("says", "") in str(result)
    assert result.maybe_billed is (result.verdict.billed != "no")


async def outcome(call: object) -> object:
    try:
        return await cast("asyncio.Future[object]", call)
    except (APIStatusError, InvalidResponseError) as error:
        return error


LABELS = ["", "application/octet-stream", "binary/octet-stream", "text/plain", "image/webp"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    ("request_", "content", "content_type"),
    [
        (TextToAudio(prompt="x"), FILES["wav"], "audio/wav"),
        (TextToAudio(prompt="x"), FILES["mp3"], "audio/mpeg"),
        (TextToAudio(prompt="x"), b"ID3\x04" + bytes(20) + FILES["mp3"], "audio/mpeg"),
        (StableFast3D(image=PNG), GLB, "model/gltf-binary"),
    ],
)
async def test_a_result_of_any_kind_is_recognised_by_its_first_bytes(
    request_: Request[object], content: bytes, content_type: str, label: str
) -> None:
    reply = answer(content, content_type=label)
    async with raw_server(Server(reply)) as url, client(url) as one:
        result = await one.send(request_)
    assert getattr(result, "data", None) == content
    assert getattr(result, "content_type", None) == content_type


@pytest.mark.parametrize(
    "headers",
    [
        f"set-cookie: {'x' * 9_000}\r\n",
        f"x-report: {'x' * 65_000}\r\n",
        "".join(f"set-cookie: c{number}=x\r\n" for number in range(600)),
        "x-strange: caf\xe9\r\nx-request-id: caf\xe9\x1b[31m\r\n",
        "seed: many\r\nfinish-reason: \x1b]0;title\x07SUCCESS\r\n",
    ],
    ids=["9,000 bytes", "65,000 bytes", "600 lines", "not UTF-8", "escapes"],
)
async def test_no_header_can_lose_an_image(headers: str) -> None:
    reply = answer(PNG, headers="X-HERE").replace(b"X-HERE", headers.encode("latin-1"))
    async with raw_server(Server(reply)) as url, client(url) as one:
        image = await one.generate.core("x")
    assert image.data == PNG
    for text in (image.request_id, image.finish_reason):
        assert text is None or (text.isprintable() and text.encode())


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("size", [100, 400_000])
async def test_bytes_after_an_answer_do_not_lose_it(in_pieces: bool, size: int) -> None:
    content = png(size)

    async def strays(connection: Connection) -> None:
        await connection.request()
        reply = b"HTTP/1.1 100 Continue\r\n\r\n" + answer(content) + b"\r\nstray bytes\r\n\r\n"
        head = 30 if in_pieces else len(reply)
        await connection.send(reply[:head])
        await asyncio.sleep(0)
        await connection.send(reply[head:])

    async with raw_server(strays) as url, client(url) as one:
        for _ in range(2):  # the connection is not used again
            assert (await one.generate.core("x")).data == content


UNASKED = [
    answer(b"<html>Request Time-out", status="408 Request Time-out", content_type="text/html"),
    answer(sample_image(65)),
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nthe half of",
    b"\r\nstray bytes\r\n\r\n",
]


@pytest.mark.parametrize("unasked", UNASKED, ids=["408", "an image", "half an answer", "strays"])
async def test_what_arrives_on_an_idle_connection_is_not_the_next_answer(unasked: bytes) -> None:
    requests = 0
    sent = asyncio.Event()

    async def serve(connection: Connection) -> None:
        nonlocal requests
        while True:
            await connection.request()
            requests += 1
            await connection.send(answer(png(100 * requests)))
            if requests == 1:
                await asyncio.sleep(0.01)  # the client has the answer, and keeps the connection
                await connection.send(unasked)
                sent.set()

    async with raw_server(serve) as url, client(url) as one:
        await one.generate.core("x")
        await sent.wait()
        await asyncio.sleep(0.01)
        assert (await one.generate.core("x")).data == png(200)
    assert requests == 2


LENGTH = b"Content-Length: %d\r\n" % len(PNG)
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (LENGTH + b"Date: x\r\n" + LENGTH.lower(), PNG),
        (LENGTH + b"transfer-encoding:Chunked\r\n", CHUNK),
        (b"Transfer-Encoding: chunked\r\n" + LENGTH * 2, CHUNK),
    ],
    ids=["twice", "and chunks", "twice and chunks"],
)
async def test_a_length_that_says_nothing_more_loses_no_image(
    framing: bytes, body: bytes, in_pieces: bool
) -> None:
    """Proxies send them that copy headers; RFC 9112, section 6.3, says what they mean."""
    connections = 0

    async def serve(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        if in_pieces:
            await asyncio.sleep(0.01)
        await connection.send(body)
        await connection.reader.read()

    async with raw_server(serve) as url, client(url) as one:
        for _ in range(2):
            assert (await one.generate.core("x")).data == PNG
    assert connections == 2, "the connection is not used again"


async def test_two_lengths_are_a_doubt() -> None:
    reply = answer(PNG, headers=f"Content-Length: {len(PNG) + 1}\r\n")
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(APIConnectionError, match="not valid HTTP") as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed


@pytest.mark.parametrize("blanks", [b"\r\n\n", b"\xef\xbb\xbf", b"\t" * 40])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
async def test_blanks_before_an_image_are_left_out(blanks: bytes, kind: str) -> None:
    """Scripts that pass an answer on print blank lines or a byte order mark before it."""
    reply = answer(blanks + FILES[kind])
    async with raw_server(Server(reply)) as url, client(url) as one:
        assert (await one.generate.core("x")).data == FILES[kind]
        async with one.stream(GenerateCore(prompt="x")) as stream:
            assert stream.content_length == len(FILES[kind])


async def test_blanks_without_an_end_are_not_read_on() -> None:
    async def floods(connection: Connection) -> None:
        await connection.request()
        await connection.send(endless(b" ", "image/png"))
        while True:
            await connection.send(b"1000\r\n" + b"\n" * 4096 + b"\r\n")

    async with raw_server(floods) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="instead of an image"):
            await one.generate.core("x")


@pytest.mark.parametrize("in_json", [False, True])
@pytest.mark.parametrize("reason", ["Success", "content_filtered", "error", "BLURRED"])
async def test_a_finish_reason_counts_in_any_case(reason: str, in_json: bool) -> None:
    reply = answer(PNG, headers=f"finish-reason: {reason}\r\n")
    if in_json:
        body = json.dumps({"image": B64, "finish_reason": reason}).encode()
        reply = answer(body, content_type=JSON)
    async with raw_server(Server(reply)) as url, client(url) as one:
        result = await outcome(one.generate.core("x"))
    if reason == "error":  # what came is not the image that was asked for
        assert isinstance(result, InvalidResponseError)
        return
    assert isinstance(result, Image)
    assert (result.finish_reason, result.filtered) == (reason.upper(), reason[0] == "c")


def packed(encoding: str, content: bytes) -> bytes:
    bits = {"gzip": 31, "deflate": 15}[encoding]
    packer = zlib.compressobj(wbits=bits)
    body = packer.compress(content) + packer.flush()
    return answer(body, headers=f"Content-Encoding: {encoding}\r\n")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_that_is_packed_although_that_was_not_asked_for_is_unpacked(
    encoding: str,
) -> None:
    content = PNG + bytes(2_000_000)
    async with raw_server(Server(packed(encoding, content))) as url, client(url) as one:
        image = await one.generate.core("x")
        assert image.data == content
        async with one.stream(GenerateCore(prompt="x")) as stream:
            assert stream.content_length is None


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, br", "gzip, " * 1000, "sk-1234567890"]
)
async def test_other_packing_is_refused_by_name(encoding: str) -> None:
    reply = answer(b"\x8b" * 50, headers=f"Content-Encoding: {encoding}\r\n")
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="compressed as") as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed
    assert "1234567890" not in str(caught.value)


def bare_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PNG[:40]) + gzip.compress(PNG[40:])),
        ("gzip", gzip.compress(PNG) + b"\x1f"),
        ("gzip", PNG),
        ("deflate", PNG),
        ("deflate", bare_deflate(PNG)),
        ("br", PNG),
        ("utf-8", PNG),
        ("identity, GZIP", gzip.compress(PNG)),
        ("deflate, gzip", gzip.compress(zlib.compress(PNG))),
        (", ".join(["gzip"] * 1000), PNG),
    ],
    ids=[
        *("two members", "a stray byte", "no gzip", "no deflate", "bare", "no br", "utf-8"),
        *("identity", "twice", "a thousand times"),
    ],
)
async def test_an_answer_is_unpacked_by_its_first_bytes(
    encoding: str, body: bytes, in_pieces: bool
) -> None:
    async def packing(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            answer(b"", headers=f"Content-Encoding: {encoding}\r\n", length=len(body))
        )
        for start in range(0, len(body), 1 if in_pieces else len(body)):
            await connection.send(body[start : start + (1 if in_pieces else len(body))])
            await asyncio.sleep(0)

    async with raw_server(packing) as url, client(url) as one:
        assert (await one.generate.core("x")).data == PNG


@pytest.mark.parametrize("cut", [1, 8, 30])
async def test_a_packed_answer_that_breaks_off_is_no_image(cut: int) -> None:
    body = gzip.compress(PNG + bytes(range(200)))[:-cut]
    reply = answer(body, headers="Content-Encoding: gzip\r\n")
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(APIConnectionError, match="cut off") as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed


async def test_a_packed_answer_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stable_async.transport.unpacking.MAX_UNPACKED", 1_000_000)
    reply = packed("gzip", PNG + bytes(50_000_000))
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="more than 1,000,000 bytes"):
            await one.generate.core("x")


B64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "body",
    [
        f'{{"artifacts":[{{"base64":"{B64}","seed":1,"finishReason":"\\ud800"}}]}}',
        f'{{"artifacts":[{{"base64":"{B64}","seed":1,"finishReason":5}}]}}',
        f'{{"artifacts":[{{"base64":"{B64}","seed":1.5}}]}}',
        f'{{"artifacts":[{{"base64":"{B64}","seed":NaN}}]}}',
        f'{{"artifacts":[{{"base64":"{B64}","seed":{{}}}}]}}',
        f'{{"artifacts":[null,{{"base64":5}},{{"base64":"\\ud800"}},{{"base64":"{B64}"}}]}}',
        f'\ufeff[{{"base64":"{B64}"}}]<script>',
    ],
)
async def test_an_odd_artifact_loses_no_image(body: str) -> None:
    reply = answer(body.encode(), content_type="application/json")
    async with raw_server(Server(reply)) as url, client(url) as one:
        (image,) = await one.send(V1)
    assert image.data == PNG
    assert image.seed in {None, 1}
    assert str(image.finish_reason).isprintable()


def endless(body: bytes, content_type: str) -> bytes:
    """Return an answer in chunks, without the last one."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%b\r\n" % (len(body), body)


JSON = "application/json"


@pytest.mark.parametrize("seed", ["-3", "1e300", "1" + "0" * 30, "9" * 4000, '"-3"', "true", "[7]"])
async def test_a_number_that_is_no_seed_is_left_out(seed: str) -> None:
    """Metadata with it could not be loaded by programs whose integers have 64 bits."""
    body = f'{{"image":"{B64}","seed":{seed},"finish_reason":"SUCCESS"}}'.encode()
    reply = answer(body, content_type="application/json")
    async with raw_server(Server(reply)) as url, client(url) as one:
        image = await one.generate.core("x")
    assert (image.data, image.seed) == (PNG, None)


ENTIRE = json.dumps({"image": B64, "seed": 7, "finish_reason": "SUCCESS"}).encode()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(sample_image(kind=suffix), f"image/{suffix}") for suffix in ("png", "jpeg", "webp")]
    + [(ENTIRE, JSON), (ENTIRE[:-5], JSON)],
)
@pytest.mark.parametrize("pause", [0, 0.02])
async def test_an_image_that_came_whole_is_kept_when_its_answer_breaks_off(
    body: bytes, content_type: str, pause: float, tmp_path: Path
) -> None:
    async def breaking(connection: Connection) -> None:
        await connection.request()
        await connection.send(endless(body, content_type))
        await asyncio.sleep(pause)

    expected = PNG if content_type == JSON else body
    async with raw_server(breaking) as url, client(url) as one:
        assert (await one.generate.core("x")).data == expected
        async with one.stream(GenerateCore(prompt="x")) as stream:
            assert (await stream.save(tmp_path / "a")).read_bytes() == expected


@pytest.mark.parametrize(
    "content",
    [
        {"images": [B64]},
        {"data": [{"b64_json": B64}], "seed": 7},
        {"result": "success", "data": {"output": B64}},
        {"output": [f"data:image/png;base64,{B64}"]},
        {"image": f"{B64}==="},
        {"image": f"{B64.rstrip('=')}====="},
        [B64],
        {"artifacts": [{"seed": 7, "finishReason": "SUCCESS", "base64": B64}]},
    ],
    ids=str,
)
async def test_an_image_is_found_in_json_of_any_shape(content: object) -> None:
    body = json.dumps(content).encode()
    assert len(body) > 100
    async with raw_server(Server(answer(body, content_type=JSON))) as url, client(url) as one:
        image = await one.generate.core("x")
    assert image.data == PNG
    assert image.seed == (7 if b"seed" in body else None)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_an_image_of_any_format_is_found_in_json(
    kind: str, encode: Callable[[bytes], bytes]
) -> None:
    content = sample_image(kind=kind)
    body = json.dumps({"images": [encode(content).decode()]}).encode()
    async with raw_server(Server(answer(body, content_type=JSON))) as url, client(url) as one:
        assert (await one.generate.core("x")).data == content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"images": []}, "JSON"),
        ({"data": [{"b64_json": ""}]}, "JSON"),
        ({"data": [{"b64_json": "AAAA" * 10}]}, "JSON"),
        ({"image": "AAAA" * 10}, "JSON with 30 bytes of an unknown kind"),
        ({"url": "https://example.com/1.png"}, "JSON"),
        ({"image": None, "finish_reason": "ERROR"}, "that failed (finish reason ERROR)"),
        ([], "JSON"),
    ],
    ids=str,
)
async def test_json_without_an_image_is_a_doubt(content: object, says: str) -> None:
    body = json.dumps(content).encode()
    async with raw_server(Server(answer(body, content_type=JSON))) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match=re.escape(says)) as caught:
            await one.generate.core("x")
    assert (caught.value.maybe_billed, caught.value.verdict.job) == (True, "doubt")


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted"])
async def test_the_id_of_an_operation_that_has_become_asynchronous_is_kept(status: str) -> None:
    reply = answer(b'{"id": "a1b2"}', content_type=JSON, status=status)
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="generation a1b2, which was") as caught:
            await one.generate.core("x")
    assert (caught.value.generation_id, caught.value.verdict.job) == ("a1b2", "doubt")


@pytest.mark.parametrize("kind", ["png", "jpeg", "wav", "glb", "json", "id"])
async def test_what_came_whole_is_kept_when_a_time_limit_expires(kind: str) -> None:
    bodies = FILES | {"json": ENTIRE, "id": b'{"id":"abc"}'}

    async def stalls(connection: Connection) -> None:
        await connection.request()
        await connection.send(endless(bodies[kind], "text/plain"))
        await connection.reader.read()

    limits = Timeouts(between_bytes=0.05)
    async with raw_server(stalls) as url, client(url).with_options(timeout=limits) as one:
        match kind:
            case "wav":
                kept = (await one.send(TextToAudio(prompt="x"))).data
            case "glb":
                kept = (await one.send(StableFast3D(image=PNG))).data
            case "id":
                submitted = await one.submit(UpscaleCreative(image=PNG, prompt="x"))
                kept = f'{{"id":"{submitted.id}"}}'.encode()
            case _:
                kept = (await one.generate.core("x")).data
    assert kept == (PNG if kind == "json" else bodies[kind])


@pytest.mark.parametrize("cut", [1, 12, 60])
@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp"])
async def test_an_image_that_came_in_part_is_none(suffix: str, cut: int) -> None:
    reply = endless(sample_image(kind=suffix)[:-cut], f"image/{suffix}")
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(APIConnectionError) as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed


@pytest.mark.parametrize("body", [b'{"id":"abc"}', b'{"id":"abc"'])
async def test_an_id_that_came_whole_is_kept_when_its_answer_breaks_off(body: bytes) -> None:
    async with raw_server(Server(endless(body, JSON))) as url, client(url) as one:
        if body.endswith(b"}"):
            generation = await one.submit(UpscaleCreative(image=PNG, prompt="x"))
            assert generation.id == "abc"
        else:
            with pytest.raises(APIConnectionError):
                await one.submit(UpscaleCreative(image=PNG, prompt="x"))


async def test_an_endless_answer_to_a_submission_cannot_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operation, "MAX_ACCEPTANCE", 1024 * 1024)

    async def floods(connection: Connection) -> None:
        await connection.request()
        await connection.send(endless(b"{", JSON))
        while True:
            await connection.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")

    async with raw_server(floods) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="more than 1,048,576 bytes") as caught:
            await one.submit(UpscaleCreative(image=PNG, prompt="x"))
    assert caught.value.maybe_billed


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"abc"} x',
        b'\xef\xbb\xbf{"id":"abc"}\n<!-- edge -->',
        b'{"id":"abc","note":"caf\xe9 \xf0\x9f"}',
    ],
)
async def test_stray_bytes_around_an_id_do_not_lose_the_generation(body: bytes) -> None:
    reply = answer(body, content_type="application/json")
    async with raw_server(Server(reply)) as url, client(url) as one:
        generation = await one.submit(UpscaleCreative(image=PNG, prompt="x"))
    assert generation.id == "abc"


@pytest.mark.parametrize(
    "body",
    [
        '{"id":null,"name":"insufficient_balance","errors":["x"]}',
        '{"id":7,"name":"insufficient_balance","errors":null,"message":"x"}',
        '\ufeff{"id":"a","name":"insufficient_balance","errors":[{"a":1}]}\n',
        '{"id":"a","name":"insufficient_balance","errors":{"balance":["x"]}}',
        '{"id":"a","name":"insufficient_balance","message":{"text":"x"}}',
        '{"id":"a","name":"insufficient_balance","errors":{}}',
        '{"id":"a","name":"insufficient_balance","errors":null}',
        '{"id":"a","name":"insufficient_balance","errors":["caf\xe9"]}',
    ],
)
async def test_an_envelope_with_odd_types_is_that_of_the_api(body: str) -> None:
    encoding = "latin-1" if "\xe9" in body else "utf-8"
    reply = answer(body.encode(encoding), status="429 No", content_type="application/json")
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(PaymentRequiredError) as caught:
            await one.generate.core("x")
    assert caught.value.from_api


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"loc": ["body", "prompt"], "msg": "too long", "input": "a secret"}], "API: too long"),
        ([["a secret"]], "API: a secret"),
        ({"Message": "explicit deny"}, "API: explicit deny"),
        ({"fault": {"faultstring": "Invalid ApiKey", "detail": {}}}, "API: Invalid ApiKey"),
        ([{"input": "a secret"}], "not from the API"),
    ],
    ids=str,
)
async def test_of_an_intermediarys_json_the_message_alone_is_shown(
    content: object, says: str
) -> None:
    reply = answer(json.dumps(content).encode(), status="403 No", content_type=JSON)
    async with raw_server(Server(reply)) as url, client(url) as one:
        with pytest.raises(APIStatusError) as caught:
            await one.generate.core("x")
    assert str(caught.value).endswith(says)


V1 = V1TextToImage(engine_id="an-engine", text_prompts=[{"text": "x"}])


async def test_of_several_images_those_that_were_made_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = base64.encodebytes(PNG).decode().replace("\n", "\\n")
    body = (
        '{"artifacts":[{"base64":"","finishReason":"ERROR","seed":1},'
        f'{{"base64":"{good}","finishReason":"SUCCESS","seed":2}},'
        f'{{"base64":"{good}","finishReason":"ERROR","seed":3}}]}}'
    )
    reply = answer(body.encode(), content_type="application/json")
    async with raw_server(Server(reply)) as url, client(url) as one:
        (image,) = await one.send(V1)
    assert (image.data, image.seed, image.finish_reason) == (PNG, 2, "SUCCESS")
    assert "2 of 3 images failed (finish reasons: ERROR, ERROR)" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"artifacts":[{"base64":"","finishReason":"ERROR","seed":1}]}',
        b'{"artifacts":[{"base64":"%s","finishReason":"ERROR"}]}' % base64.b64encode(PNG),
        b'{"artifacts":[]}',
        b"[]",
        b"<html>no</html>",
    ],
)
async def test_without_any_image_there_is_no_result(body: bytes) -> None:
    async with raw_server(Server(answer(body))) as url, client(url) as one:
        with pytest.raises(InvalidResponseError) as caught:
            await one.send(V1)
    assert caught.value.verdict.job == "doubt"


async def test_an_image_where_json_was_asked_for_is_kept() -> None:
    async with raw_server(Server(answer(PNG, headers="seed: 5\r\n"))) as url, client(url) as one:
        (image,) = await one.send(V1)
    assert (image.data, image.seed) == (PNG, 5)


WHOLE = [sample_image(), sample_image(kind="jpeg"), sample_image(kind="webp"), GLB]


@pytest.mark.parametrize("content", WHOLE, ids=["png", "jpeg", "webp", "glb"])
@pytest.mark.parametrize("cut", [0, 1, 20])
async def test_an_answer_that_ends_with_its_connection_is_whole_or_in_doubt(
    content: bytes, cut: int
) -> None:
    body = content[: len(content) - cut]

    async def closes(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await connection.send(body)
        connection.writer.close()

    request: Request[object] = GenerateCore(prompt="x")
    if content == GLB:
        request = StableFast3D(image=PNG)
    async with raw_server(closes) as url, client(url) as one:
        if not cut:
            assert getattr(await one.send(request), "data", None) == content
            return
        with pytest.raises(InvalidResponseError, match="with part of") as caught:
            await one.send(request)
    assert caught.value.verdict.job == "doubt"


@pytest.mark.parametrize(
    ("content_range", "whole"),
    [("bytes 0-99/100", True), ("bytes 0-99/200", False), ("bytes 9-99/100", False), ("?", True)],
)
async def test_a_part_is_no_result(content_range: str, whole: bool) -> None:
    reply = answer(PNG, status="206 x", headers=f"Content-Range: {content_range}\r\n")
    async with raw_server(Server(reply)) as url, client(url) as one:
        result = await outcome(one.generate.core("x"))
    assert isinstance(result, Image if whole else InvalidResponseError)


statuses = st.integers(200, 999).map(lambda status: f"{status} x") | st.sampled_from(
    ["100 Continue", "101 Switching Protocols", "103 Early Hints", "199 x", "200", "200 caf\xe9"]
)
labels = st.sampled_from([*LABELS, "image/png", "application/json", "a\x1bb", "x" * 300])
replies = st.lists(
    st.tuples(
        statuses,
        labels,
        st.binary(max_size=300) | st.sampled_from([*FILES.values(), b"{}", b"<html>"]),
        st.sampled_from(["", "Content-Encoding: gzip\r\n", "Location: http://x\r\n", "@: \r\n"]),
    ),
    min_size=10,
    max_size=10,
)


@settings(max_examples=20)
@given(replies)
def test_no_other_librarys_error_comes_out(drawn: list[tuple[str, str, bytes, str]]) -> None:
    async def main() -> None:
        answers = [
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
            % (status.encode("latin-1"), label.encode(), len(body), extra.encode(), body)
            for status, label, body, extra in drawn
        ]
        server = Server(*answers, answers[-1])
        async with raw_server(server) as url, client(url) as one:
            for _, _, body, _ in drawn:
                try:
                    image = await one.generate.core("x", max_retries=0)
                except StabilityError as error:
                    text = str(error)
                else:
                    assert image.data == body
                    text = f"{image.content_type}{image.finish_reason}{image.request_id}"
                assert text.isprintable()
                text.encode()

    asyncio.run(main())


@pytest.mark.parametrize("identity", ["..", " ", "x" * 2_000])
async def test_an_id_that_cannot_be_used_is_a_doubt(identity: str) -> None:
    body = json.dumps({"id": identity}).encode()
    async with raw_server(Server(answer(body, content_type=JSON))) as url, client(url) as one:
        with pytest.raises(InvalidResponseError, match="an id that no result") as caught:
            await one.submit(UpscaleCreative(image=PNG, prompt="x"))
    assert (caught.value.maybe_billed, caught.value.verdict.job) == (True, "doubt")
    assert caught.value.generation_id == identity
