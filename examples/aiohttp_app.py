"""Images for many users with one key: the service of fastapi_app.py with aiohttp only.

    STABILITY_API_KEY=... python -m examples.aiohttp_app [PORT]

All processes of a machine share one quota. STABILITY_SHARED_QUOTA=redis://... shares it between
machines.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from stable_async import StabilityClient, StabilityError
from stable_async.web import request_from_json, stream_with_states, to_http_answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PAGE = Path(__file__).with_name("page.html")
# Requests that would wait longer than this for the quota are refused at once, seconds.
DEADLINE = 60.0
# The media type by which the page asks for the states of a request before its image.
WITH_STATES = "application/vnd.stable-async.states"
CLIENT = web.AppKey("client", StabilityClient)

routes = web.RouteTableDef()


async def open_client(app: web.Application) -> AsyncGenerator[None, None]:
    """Open one client for this process, and close it at the end."""
    async with StabilityClient(max_waiting=2000) as client:
        app[CLIENT] = client
        yield


@routes.get("/")
async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE, headers={"content-security-policy": "frame-ancestors 'none'"})


@routes.get("/quota")
async def quota(request: web.Request) -> web.Response:
    statistics = request.app[CLIENT].quota_statistics()
    return web.json_response(asdict(statistics) if statistics else None)


@routes.post("/images")
async def images(request: web.Request) -> web.StreamResponse:
    client = request.app[CLIENT]
    # Users take turns. A service with accounts names the account here.
    user = request.headers.get("x-user") or request.remote or ""
    response = web.StreamResponse()
    try:
        try:
            content = await request.json()
        except (ValueError, LookupError, RecursionError):  # no JSON, no text, no such charset
            content = None
        asked = request_from_json(content)
        if request.headers.get("accept") == WITH_STATES:
            response.content_type = WITH_STATES
            await response.prepare(request)
            async with aclosing(
                stream_with_states(client, asked, tenant=user, deadline=DEADLINE)
            ) as states:
                async for part in states:
                    await response.write(part)
            return response
        async with client.stream(asked, tenant=user, deadline=DEADLINE) as stream:
            response.headers.update(stream.headers)
            await response.prepare(request)
            async for chunk in stream:
                await response.write(chunk)
            return response
    except StabilityError as error:
        if response.prepared:
            raise  # the connection is cut, so that nobody takes it for whole
        answer = to_http_answer(error)
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


def make_app() -> web.Application:
    """Return the application."""
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(open_client)
    return app


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    # A browser that goes away cancels its handler, and with it the call.
    web.run_app(make_app(), host="127.0.0.1", port=port, handler_cancellation=True)
