"""Images for many users with one key: a service with FastAPI, in any number of processes.

    STABILITY_API_KEY=... uvicorn examples.fastapi_app:app --workers 4

The workers of a machine share one quota. STABILITY_SHARED_QUOTA, the URL of a Redis server, shares
it between machines (examples/web_cluster.py).

`POST /images` takes JSON with `prompt`, `service` (core, ultra or sd3) and that service's
parameters, and answers with the bytes of the image as they arrive. `GET /` is a page for it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Body, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from stable_async import StabilityClient, StabilityError
from stable_async.integrations.starlette import MediaResponse
from stable_async.web import request_from_json, stream_with_states, to_http_answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PAGE = Path(__file__).with_name("page.html")
# Requests that would wait longer than this for the quota are refused at once, seconds.
DEADLINE = 60.0
# The media type by which the page asks for the states of a request before its image.
WITH_STATES = "application/vnd.stable-async.states"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Open one client for this process, and close it at the end."""
    async with StabilityClient(max_waiting=2000) as client:
        app.state.client = client
        yield


app = FastAPI(title="Images", lifespan=lifespan)


@app.exception_handler(StabilityError)
async def explain(request: Request, error: StabilityError) -> Response:
    answer = to_http_answer(error)
    return Response(answer.body, answer.status, dict(answer.headers))


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE, headers={"content-security-policy": "frame-ancestors 'none'"})


@app.get("/quota")
async def quota(request: Request) -> JSONResponse:
    client: StabilityClient = request.app.state.client
    statistics = client.quota_statistics()
    return JSONResponse(asdict(statistics) if statistics else None)


@app.post("/images")
async def images(request: Request, content: Annotated[object, Body()]) -> Response:
    client: StabilityClient = request.app.state.client
    asked = request_from_json(content)
    # Users take turns. A service with accounts names the account here.
    user = request.headers.get("x-user") or (request.client.host if request.client else "")
    if request.headers.get("accept") == WITH_STATES:
        states = stream_with_states(client, asked, tenant=user, deadline=DEADLINE)
        return StreamingResponse(states, media_type=WITH_STATES)
    return MediaResponse(client, asked, tenant=user, deadline=DEADLINE)
