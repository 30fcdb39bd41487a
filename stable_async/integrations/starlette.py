"""Results of the API as responses of Starlette and FastAPI, passed on as they arrive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Unpack

from starlette.responses import Response

from stable_async.errors import StabilityError
from stable_async.web import to_http_answer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from stable_async.api.base import MediaRequest
    from stable_async.client import StabilityClient
    from stable_async.media import Media
    from stable_async.transport.options import CallOptions

__all__ = ["MediaResponse"]


class MediaResponse(Response):
    """A response that sends a request to the API and passes the result on, chunk by chunk.

    It carries the result's `content-type`, `content-length`, `seed` and `finish-reason`. An error
    becomes the answer of `stable_async.web.to_http_answer`. When the browser goes away, even before
    the first byte, the call is cancelled; its option `on_disconnect` says what that means.

    A HEAD request, which Starlette routes like GET, is answered with 200 without these headers;
    nothing is sent to the API.
    """

    def __init__(
        self,
        client: StabilityClient,
        request: MediaRequest[Media],
        **options: Unpack[CallOptions[Media]],
    ) -> None:
        """Answer with the result of `request`, sent by `client` with `options`."""
        super().__init__()
        self._client = client
        self._request = request
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as long as the client is connected."""
        if scope["method"] == "HEAD":
            # Its headers come with a result, which would be paid for and not passed on.
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
            return
        answering = asyncio.create_task(self._answer(scope, receive, send))
        listening = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((answering, listening), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:
            answering.cancel()
            listening.cancel()
            await asyncio.gather(answering, listening, return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with self._client.stream(self._request, **self._options) as stream:
                headers = [(name.encode(), text.encode()) for name, text in stream.headers.items()]
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for chunk in stream:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body"})
        except StabilityError as error:
            if begun:
                raise  # the server cuts the connection, so that the answer does not look complete
            answer = to_http_answer(error)
            await Response(answer.body, answer.status, dict(answer.headers))(scope, receive, send)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
