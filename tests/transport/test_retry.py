"""Only 429 and 500 are tried again, and what is sent again is the same to the byte."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async import (
    APIStatusError,
    GenerateUltra,
    InvalidRequestError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    StabilityClient,
)
from stable_async.transport.multipart import MultipartForm, body_of
from stable_async.transport.retry import is_retryable, make_retrying
from tests.errors_of import api_error, edge_error
from tests.raw_server import answer, raw_server
from tests.samples import PNG_HEAD, png
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from stable_async import FileInput
    from tests.raw_server import Connection

FILE = PNG_HEAD + bytes(range(256)) * 5000  # 1.28 MB: beyond what is kept in memory
NO_WAIT = RetryPolicy(attempts=3, initial_backoff=0)


class Refusing:
    """Refuses the first requests, then answers; keeps every body it was sent."""

    def __init__(self, *statuses: int, early: bool = False) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.early = early

    async def __call__(self, connection: Connection) -> None:
        while True:
            if self.early and self.statuses:
                await connection.head()
                await connection.reader.read(200_000)
                await self._refuse(connection)
                return
            self.bodies.append(await connection.request())
            if self.statuses:
                await self._refuse(connection)
            else:
                await connection.send(answer())

    async def _refuse(self, connection: Connection) -> None:
        refusal = answer(
            b'{"id": "1", "name": "n", "errors": ["e"]}',
            status=f"{self.statuses.pop(0)} Refused",
            content_type="application/json",
            headers="Retry-After: 0\r\n",
        )
        await connection.send(refusal)


def client(url: str, retry: RetryPolicy = NO_WAIT) -> StabilityClient:
    return StabilityClient("sk-0123456789abcdef", base_url=url, quota=None, retry=retry)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 501, 502, 503, 504])
async def test_other_statuses_are_not_tried_again(status: int) -> None:
    server = Refusing(status)
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(APIStatusError) as caught:
            await one.generate.core("x")
    assert caught.value.status == status
    assert caught.value.attempts == 1
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitError), (500, ServerError)])
@virtual_network_time
async def test_the_last_refusal_comes_out_with_the_number_of_attempts(
    status: int, error: type[APIStatusError]
) -> None:
    server = Refusing(*[status] * 9)
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(error) as caught:
            await one.generate.core("x")
    assert caught.value.attempts == NO_WAIT.attempts == len(server.bodies)


def one_shot(data: bytes = FILE) -> Iterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


async def async_one_shot() -> AsyncIterator[bytes]:
    for chunk in one_shot():
        yield chunk


class Pipe(io.RawIOBase):
    """A file object that cannot go back."""

    def __init__(self) -> None:
        self._inner = io.BytesIO(FILE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return self._inner.readinto(cast("bytearray", buffer))


def from_where_it_stands() -> io.BytesIO:
    file = io.BytesIO(b"already read" + FILE)
    file.read(len(b"already read"))
    return file


SOURCES: dict[str, Callable[[], FileInput]] = {
    "bytes": lambda: FILE,
    "bytearray": lambda: bytearray(FILE),
    "memoryview": lambda: memoryview(FILE),
    "list": lambda: list(one_shot()),
    "file object": from_where_it_stands,
    "pipe": lambda: Pipe(),
    "iterator": one_shot,
    "async iterator": async_one_shot,
}


def file_part(body: bytes) -> bytes:
    return body.partition(b'filename="')[2].partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]


@pytest.mark.parametrize("early", [False, True], ids=["read whole", "refused early"])
@pytest.mark.parametrize("source", SOURCES)
@virtual_network_time
async def test_what_is_sent_again_is_the_same_to_the_byte(source: str, early: bool) -> None:
    server = Refusing(429, 500, early=early)
    async with raw_server(server) as url, client(url) as one:
        await one.generate.ultra("x", image=SOURCES[source](), strength=0.5)
    assert len(server.bodies) == 1 if early else 3
    assert len(set(server.bodies)) == 1
    assert file_part(server.bodies[0]) == FILE


async def test_a_path_is_sent_again_the_same(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(FILE)
    server = Refusing(500)
    async with raw_server(server) as url, client(url) as one:
        await one.generate.ultra("x", image=path, strength=0.5)
    assert server.bodies[0] == server.bodies[1]
    assert b'filename="in.png"' in server.bodies[0]
    assert file_part(server.bodies[0]) == FILE


async def test_a_file_that_changes_between_two_sendings_is_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(png(100))

    async def changes_it(connection: Connection) -> None:
        await connection.request()
        path.write_bytes(png(200))
        await connection.send(answer(b"{}", status="500 Oops", content_type="application/json"))

    async with raw_server(changes_it) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match=r"image: given in\.png, which changed"):
            await one.generate.ultra("x", image=path, strength=0.5)


async def test_a_source_that_was_read_before_is_refused_not_sent_empty() -> None:
    server = Refusing()
    async with raw_server(server) as url, client(url) as one:
        request = GenerateUltra(prompt="x", image=one_shot(), strength=0.5)
        await one.send(request)
        with pytest.raises(InvalidRequestError, match="image: given 0 bytes"):
            await one.send(request)
    assert len(server.bodies) == 1


async def test_an_error_of_the_callers_own_source_is_the_cause_of_ours() -> None:
    def breaks() -> Iterator[bytes]:
        yield png(200_000)
        raise ZeroDivisionError("a text that may hold anything")

    async with raw_server(Refusing()) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match="raised ZeroDivisionError") as caught:
            await one.generate.ultra("x", image=breaks(), strength=0.5)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "anything" not in str(caught.value)


@pytest.mark.parametrize("image", [b"", io.BytesIO(), [], "no/such/file.png"])
async def test_a_missing_or_empty_file_is_refused_before_anything_is_sent(
    image: FileInput,
) -> None:
    server = Refusing()
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match="image: "):
            await one.generate.ultra("x", image=image, strength=0.5)
    assert server.bodies == []


async def test_too_large_a_request_is_refused_before_it_is_sent_when_its_size_is_known() -> None:
    server = Refusing()
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match="up to 10485760 bytes"):
            await one.generate.ultra("x", image=png(10_485_760), strength=0.5)
    assert server.bodies == []


async def test_too_large_a_request_of_unknown_size_is_stopped_at_the_limit() -> None:
    read = 0

    async def counts(connection: Connection) -> None:
        nonlocal read
        while chunk := await connection.reader.read(65536):
            read += len(chunk)

    async with raw_server(counts) as url, client(url) as one:
        endless = (png(100_000) for _ in range(10**6))
        with pytest.raises(InvalidRequestError, match="given more than 10485760 bytes"):
            await one.generate.ultra("x", image=endless, strength=0.5)
    assert 0 < read < 10_600_000


@given(initial=st.floats(0, 100), highest=st.floats(0, 100), attempt=st.integers(1, 20))
def test_the_wait_after_a_500_is_full_jitter_within_its_bounds(
    initial: float, highest: float, attempt: int
) -> None:
    from tenacity import RetryCallState

    policy = RetryPolicy(attempts=30, initial_backoff=initial, max_backoff=highest)
    retrying = make_retrying(policy, lambda error: 0.0)
    state = RetryCallState(retrying, None, (), {})
    state.attempt_number = attempt
    error = api_error(500)
    state.set_exception((ServerError, error, None))
    wait = retrying.wait(state)
    assert 0 <= wait <= min(highest, initial * 2 ** (attempt - 1)) + 1e-9


def test_nothing_but_429_and_500_is_retryable() -> None:
    for error_of in (api_error, edge_error):
        retried = {status for status in range(100, 1000) if is_retryable(error_of(status))}
        assert retried == {429, 500}
    assert not is_retryable(api_error(429, "insufficient_balance"))
    assert not is_retryable(TimeoutError())


@pytest.mark.parametrize("mode", ["text", "closed", "nul"])
async def test_what_cannot_be_read_as_bytes_is_refused_by_the_name_of_its_field(
    mode: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(FILE)
    with path.open(encoding="latin-1") as text, path.open("rb") as closed:
        closed.close()
        image = {"text": text, "closed": closed, "nul": "a\0b"}[mode]
        async with raw_server(Refusing()) as url, client(url) as one:
            with pytest.raises(InvalidRequestError, match="image: "):
                await one.generate.ultra("x", image=image, strength=0.5)  # type: ignore[arg-type]


async def test_one_file_object_serves_several_requests_at_a_time() -> None:
    server = Refusing()
    file = from_where_it_stands()
    request = GenerateUltra(prompt="x", image=file, strength=0.5)
    async with raw_server(server) as url, client(url) as one:
        outcomes = [outcome async for outcome in one.map([request] * 12, max_in_flight=6)]
        await one.send(request)
    assert all(outcome.error is None for outcome in outcomes)
    assert {file_part(body) for body in server.bodies} == {FILE}
    assert len(server.bodies) == 13


class Ending(io.BytesIO):
    """A file object that is shorter when it is read than it said."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size) if self.tell() < 300_000 else b""


async def test_a_file_that_is_shorter_than_it_said_is_refused_and_not_sent_again() -> None:
    """Its length was announced: what is missing would be waited for until a time-out."""
    server = Refusing()
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match=r"image: given .*announced"):
            await one.generate.ultra("x", image=Ending(FILE), strength=0.5)
    assert server.bodies == []


async def opened_form() -> MultipartForm:
    request = GenerateUltra(prompt="x", image=from_where_it_stands(), strength=0.5)
    form, _ = body_of(request)
    assert isinstance(form, MultipartForm)
    await form.open()
    return form


async def test_two_sendings_of_one_form_take_turns() -> None:
    """As when a cancelled attempt still reads the file that the next one begins to send."""
    form = await opened_form()

    async def send() -> bytes:
        return b"".join([bytes(chunk) async for chunk in form.chunks()])

    first = form.chunks()
    sent = bytes(await anext(first)) + bytes(await anext(first)) + bytes(await anext(first))
    second = asyncio.ensure_future(send())
    done, _ = await asyncio.wait([second], timeout=0.05)
    assert not done
    closing = asyncio.ensure_future(form.close())
    async for chunk in first:
        sent += bytes(chunk)
    assert file_part(sent) == FILE
    assert await second == sent
    await closing


async def test_a_form_closes_its_files_only_when_no_attempt_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form = await opened_form()
    closed: list[bool] = []
    [part] = form._parts

    async def close() -> None:
        closed.append(True)

    monkeypatch.setattr(type(part.source), "close", lambda _: close())
    chunks = form.chunks()
    for _ in range(3):
        await anext(chunks)
    closing = asyncio.ensure_future(form.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closed
    await chunks.aclose()
    await closing
    assert closed == [True]


async def test_answers_are_asked_for_as_they_are() -> None:
    """An image is not to be packed: its length and digest are those of the answer."""
    heads: list[str] = []

    async def serve(connection: Connection) -> None:
        heads.append((await connection.head()).lower())
        length = heads[0].partition("content-length: ")[2].partition("\r\n")[0]
        await connection.reader.readexactly(int(length))
        await connection.send(answer())

    async with raw_server(serve) as url, client(url) as one:
        await one.generate.core("x")
    assert "accept-encoding: identity" in heads[0].split("\r\n")
