"""A service whose request body is a request of the API: documented, and checked by FastAPI.

STABILITY_API_KEY=... uvicorn examples.fastapi_model:app
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response, UploadFile

from stable_async import GenerateCore, StabilityClient, StabilityError
from stable_async.web import to_http_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with StabilityClient() as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(StabilityError)
async def explain(request: Request, error: StabilityError) -> Response:
    answer = to_http_answer(error)
    return Response(answer.body, answer.status, dict(answer.headers))


@app.post("/images")
async def images(body: GenerateCore, request: Request) -> Response:
    image = await request.app.state.client.send(body)
    return Response(image.data, media_type=image.content_type)


@app.post("/upscaled")
async def upscaled(image: UploadFile, request: Request) -> Response:
    larger = await request.app.state.client.upscale.fast(image)
    return Response(larger.data, media_type=larger.content_type)
