"""The same service as tutorials show it: a semaphore, aiolimiter, and a call by hand.

BENCHMARK_RATE is what its limiter allows in ten seconds: the documented 150, or a part of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator  # noqa: TC003 - FastAPI reads the annotations
from contextlib import asynccontextmanager

import aiohttp
from aiolimiter import AsyncLimiter
from fastapi import FastAPI, Request, Response

PATH = "/v2beta/stable-image/generate/core"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.semaphore = asyncio.Semaphore(100)
    app.state.limiter = AsyncLimiter(float(os.environ["BENCHMARK_RATE"]), 10)
    async with aiohttp.ClientSession() as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/quota")
async def quota() -> None:
    return None


@app.post("/images")
async def images(request: Request) -> Response:
    content = await request.json()
    state = request.app.state
    async with state.semaphore, state.limiter:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("prompt", content["prompt"])
        async with state.session.post(
            os.environ["STABILITY_BASE_URL"] + PATH,
            data=form,
            headers={"authorization": "Bearer x", "accept": "image/*"},
        ) as answer:
            return Response(await answer.read(), answer.status, media_type="image/png")
