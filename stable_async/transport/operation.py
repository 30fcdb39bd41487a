"""One operation from request to result: submit it, poll for its result, read it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from stable_async.api.answers import Answer, read_generation_id
from stable_async.api.base import MediaRequest, ResultRequest, WholeRequest
from stable_async.api.media_reader import holds_result
from stable_async.errors import FieldProblem, InvalidRequestError, InvalidResponseError
from stable_async.media import Media
from stable_async.transport.call import Call
from stable_async.transport.polling import reported_when_cancelled
from stable_async.transport.send_state import SendState
from stable_async.transport.streams import MediaStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from stable_async.api.base import Request
    from stable_async.transport.options import Options
    from stable_async.transport.session import Session

__all__ = ["look", "send", "stream", "submit"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

STILL_RUNNING = 202
# The answer to a submission is little more than an id; or the result itself, with 20 MB at most.
MAX_ACCEPTANCE = 64 * 1024 * 1024


async def send(
    session: Session, request: Request[ResultT], options: Options, state: SendState
) -> ResultT:
    """Send a request of any kind and return its result, held in memory."""
    if isinstance(request, WholeRequest):
        async with Call(session, request, options, state) as call:
            return cast("ResultT", request.read(await call.read()))
    if not isinstance(request, MediaRequest):
        raise TypeError(f"{type(request).__name__} is not a request")
    if request.operation.result is not None:
        begun = await _begin(session, request, options, state)
        if isinstance(begun, Answer):
            return cast("ResultT", await _finished(request, begun).read())
        with reported_when_cancelled(begun.id):
            return cast("ResultT", await send(session, begun, options, state))
    if isinstance(request, ResultRequest):
        read = partial(_read_if_finished, session, request, options)
        return cast("ResultT", await session.polling.until_found(request.id, read))
    async with Call(session, request, options, state) as call:
        return cast("ResultT", await MediaStream(request, call.head, call.chunks).read())


@asynccontextmanager
async def stream(
    session: Session,
    request: MediaRequest[MediaT],
    options: Options,
    state: SendState,
    kind: type[MediaStream[MediaT]] = MediaStream,
) -> AsyncIterator[MediaStream[MediaT]]:
    """Send a request and return its result as a stream, of the class `kind`."""
    if request.operation.result is not None:
        begun = await _begin(session, request, options, state)
        if isinstance(begun, Answer):
            yield await _finished(request, begun, kind).start()
            return
        with reported_when_cancelled(begun.id):
            async with stream(session, begun, options, state, kind) as opened:
                yield opened
    elif isinstance(request, ResultRequest):
        async with AsyncExitStack() as stack:
            begin = partial(_open_if_finished, stack, session, request, options, kind)
            yield await session.polling.until_found(request.id, begin)
    else:
        async with Call(session, request, options, state) as call:
            yield await kind(request, call.head, call.chunks).start()


async def submit(
    session: Session, request: MediaRequest[MediaT], options: Options, state: SendState
) -> ResultRequest[MediaT]:
    """Start an asynchronous operation and return the request for its result."""
    begun = await _begin(session, request, options, state)
    if isinstance(begun, Answer):
        error = begun.unreadable("the result itself instead of the id of a generation")
        error.result = await _finished(request, begun).read()
        raise error
    return begun


async def _begin(
    session: Session, request: MediaRequest[MediaT], options: Options, state: SendState
) -> ResultRequest[MediaT] | Answer:
    """Start an asynchronous operation and return the request for its result.

    Returns the answer if it holds the result itself: of an operation that has become synchronous.
    """
    result = request.operation.result
    if result is None:
        problem = FieldProblem("", "given a synchronous operation", "an asynchronous one")
        raise InvalidRequestError(type(request).__name__, [problem])
    async with Call(session, request, options, state) as call:
        answer = await call.read(MAX_ACCEPTANCE)
        try:
            generation = read_generation_id(answer)
        except InvalidResponseError:
            if not holds_result(request.media, answer):
                raise
            return answer
    session.polling.rest(generation)
    try:
        return cast("ResultRequest[MediaT]", result(id=generation, paid=request.credits))
    except InvalidRequestError:
        # It may be paid for all the same.
        error = answer.unreadable("an id that no result can be asked for with")
        error.attach_generation(generation)
        raise error from None


def _finished(
    request: MediaRequest[MediaT], answer: Answer, kind: type[MediaStream[MediaT]] = MediaStream
) -> MediaStream[MediaT]:
    """Return the result that a whole answer holds, as a stream."""

    async def body() -> AsyncGenerator[bytes, None]:
        yield answer.body

    return kind(request, answer, body())


async def look(session: Session, request: ResultRequest[MediaT], options: Options) -> MediaT | None:
    """Look once for the result of a generation; return `None` while it is running."""
    read = partial(_read_if_finished, session, request, options)
    return await session.polling.once(request.id, read)


def _look(session: Session, request: ResultRequest[Media], options: Options) -> Call:
    return Call(session, request, options.for_polling(), SendState())


async def _read_if_finished(
    session: Session, request: ResultRequest[MediaT], options: Options
) -> MediaT | None:
    async with _look(session, request, options) as call:
        if call.head.status == STILL_RUNNING:
            return None
        return await MediaStream(request, call.head, call.chunks).read()


async def _open_if_finished(
    stack: AsyncExitStack,
    session: Session,
    request: ResultRequest[MediaT],
    options: Options,
    kind: type[MediaStream[MediaT]],
) -> MediaStream[MediaT] | None:
    async with AsyncExitStack() as looking:
        call = await looking.enter_async_context(_look(session, request, options))
        if call.head.status == STILL_RUNNING:
            return None
        opened = await kind(request, call.head, call.chunks).start()
        stack.push_async_exit(looking.pop_all())
        return opened
