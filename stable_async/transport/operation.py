"""One operation from request to result: submit it, poll for its result, read it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from stable_async.api.answers import read_generation_id
from stable_async.api.base import MediaRequest, ResultRequest, WholeRequest
from stable_async.errors import FieldProblem, InvalidRequestError
from stable_async.media import Media
from stable_async.transport.call import Call
from stable_async.transport.polling import reported_when_cancelled
from stable_async.transport.send_state import SendState
from stable_async.transport.streams import MediaStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stable_async.api.base import Request
    from stable_async.transport.options import Options
    from stable_async.transport.session import Session

__all__ = ["look", "send", "stream", "submit"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

STILL_RUNNING = 202
# The answer to an accepted submission is little more than an id.
MAX_ACCEPTANCE = 1024 * 1024


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
        generation = await submit(session, request, options, state)
        with reported_when_cancelled(generation.id):
            return cast("ResultT", await send(session, generation, options, state))
    if isinstance(request, ResultRequest):
        read = partial(_read_if_finished, session, request, options)
        return cast("ResultT", await session.polling.until_found(request.id, read))
    async with Call(session, request, options, state) as call:
        return cast("ResultT", await MediaStream(request, call).read())


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
        generation = await submit(session, request, options, state)
        with reported_when_cancelled(generation.id):
            async with stream(session, generation, options, state, kind) as opened:
                yield opened
    elif isinstance(request, ResultRequest):
        async with AsyncExitStack() as stack:
            begin = partial(_open_if_finished, stack, session, request, options, kind)
            yield await session.polling.until_found(request.id, begin)
    else:
        async with Call(session, request, options, state) as call:
            yield await kind(request, call).start()


async def submit(
    session: Session, request: MediaRequest[MediaT], options: Options, state: SendState
) -> ResultRequest[MediaT]:
    """Start an asynchronous operation and return the request for its result."""
    result = request.operation.result
    if result is None:
        problem = FieldProblem("", "given a synchronous operation", "an asynchronous one")
        raise InvalidRequestError(type(request).__name__, [problem])
    async with Call(session, request, options, state) as call:
        answer = await call.read(MAX_ACCEPTANCE)
        generation = read_generation_id(answer)
    session.polling.rest(generation)
    try:
        return cast("ResultRequest[MediaT]", result(id=generation, paid=request.credits))
    except InvalidRequestError:
        # It may be paid for all the same.
        error = answer.unreadable("an id that no result can be asked for with")
        error.attach_generation(generation)
        raise error from None


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
        return await MediaStream(request, call).read()


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
        opened = await kind(request, call).start()
        stack.push_async_exit(looking.pop_all())
        return opened
