"""A shop that sells small images over real sockets and records every charge.

What happens to a request is asked of `script`: by prompt, or the next entry of a list of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from aiohttp import web

from tests.samples import png_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

IMAGES = "/v2beta/stable-image"
REFUSALS = {
    400: ("bad_request", "prompt: is not nice"),
    401: ("unauthorized", "authorization: invalid or missing header value"),
    402: ("payment_required", "You lack sufficient credits to make this request."),
    403: ("content_moderation", "Your request was flagged"),
    404: ("generation_not_found", "id: the generation either does not exist or has expired."),
    422: ("invalid_language", "English is the only supported language for this service."),
    429: ("rate_limit_exceeded", "You have exceeded the rate limit"),
    500: ("internal_error", "An unexpected server error has occurred, please try again later."),
}


class Shop:
    """The shop.

    Attributes:
        url: Where it is.
        script: What happens to the next requests with a prompt: a status, `filtered`, `drop` (sold
            and cut before the answer), `cut` (sold and cut in the middle), `slow` (waits for
            `opened`), `slow 429` (so does this, to be refused); nothing left means an image.
        sold: Pictures that were paid for, by prompt and seed.
        dropped: Pictures that were sold and not handed over.
        asked: All requests, by prompt, in order.
        in_shop: Requests that are there now.
        opened: Set, or else `slow` requests wait.
        edge: What stands before the shop answers every request with this status, or `cut` cuts the
            connection; `None`: nothing does.
        on_request: Called for each request.
        edge_sells: How likely the shop got the request all the same.
        generations: Asynchronous ones by id: prompt, seed, and how often they are not ready yet.
    """

    def __init__(self) -> None:
        self.url = ""
        self._port = 0
        self.keep_alive = True
        self.latency = 0.0
        self.dropped = 0
        self.fail_rate = self.drop_rate = 0.0
        self.random = Random(0)
        self.script: dict[str, list[int | str]] = {}
        self.sold: Counter[tuple[str, str]] = Counter()
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.in_shop = 0
        self.most_in_shop = 0
        self.opened = asyncio.Event()
        self.edge: int | str | None = None
        self.on_request: Callable[[], object] = lambda: None
        self.edge_sells = 0.0
        self.generations: dict[str, list[object]] = {}
        self.not_ready = 1
        self.arrived = asyncio.Condition()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v2beta/results/{id}", self._result)
        app.router.add_post(f"{IMAGES}/upscale/creative", self._submit)
        app.router.add_post("/{path:.*}", self._sell)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runner = runner
        await self.open_door()
        self._port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"
        try:
            yield self
        finally:
            self.opened.set()
            await runner.cleanup()

    async def open_door(self) -> None:
        """Listen, again at the same place."""
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await self._site.start()

    async def close_door(self) -> None:
        """Take no more connections; those who are in the shop are served."""
        await self._site.stop()

    async def wait_for(self, requests: int) -> None:
        """Wait until so many requests were there in all."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.asked) >= requests)

    async def _read(self, request: web.Request) -> dict[str, str]:
        form = {
            name: value.filename if isinstance(value, web.FileField) else str(value)
            for name, value in (await request.post()).items()
        }
        self.on_request()
        async with self.arrived:
            self.asked.append(form.get("prompt", ""))
            self.forms.append(form)
            self.arrived.notify_all()
        return form

    async def _sell(self, request: web.Request) -> web.StreamResponse:
        form = await self._read(request)
        self.in_shop += 1
        self.most_in_shop = max(self.most_in_shop, self.in_shop)
        try:
            return await self._answer(request, form)
        finally:
            self.in_shop -= 1

    async def _answer(self, request: web.Request, form: dict[str, str]) -> web.StreamResponse:
        prompt, seed = form.get("prompt", ""), form.get("seed", "")
        if self.edge is not None:
            self.sold[prompt, seed] += self.random.random() < self.edge_sells
            if isinstance(self.edge, int):
                page = f"<html>{self.edge}: not the API</html>"
                return web.Response(status=self.edge, text=page, content_type="text/html")
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        script = self.script.get(prompt)
        what = script.pop(0) if script else self._accident()
        if isinstance(what, int):
            return refusal(what)
        await asyncio.sleep(self.latency)
        if what in {"slow", "slow 429"}:
            await self.opened.wait()
        if what == "slow 429":
            return refusal(429)
        self.sold[prompt, seed] += 1
        image = shop_image(prompt, seed)
        headers = {
            "Content-Type": "image/png",
            "finish-reason": "CONTENT_FILTERED" if what == "filtered" else "SUCCESS",
            "seed": seed or "5",
            "x-request-id": f"request-{len(self.asked)}",
        }
        if request.transport is None:  # the customer is gone
            return web.Response()
        if what == "drop":
            self.dropped += 1
            request.transport.abort()
            return web.Response()
        if what == "cut":
            response = web.StreamResponse(headers=headers)
            response.content_length = len(image)
            await response.prepare(request)
            await response.write(image[: len(image) // 2])
            request.transport.abort()
            return response
        answer = web.Response(body=image, headers=headers)
        if not self.keep_alive:
            answer.force_close()
        return answer

    def _accident(self) -> int | str | None:
        lot = self.random.random()
        if lot < self.fail_rate:
            return 500
        return "drop" if lot < self.fail_rate + self.drop_rate else None

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        form = await self._read(request)
        script = self.script.get(form["prompt"])
        what = script.pop(0) if script else None
        if isinstance(what, int):
            return refusal(what)
        self.sold[form["prompt"], form["seed"]] += 1
        identity = hashlib.sha256(f"{form}{len(self.asked)}".encode()).hexdigest()
        self.generations[identity] = [form["prompt"], form["seed"], self.not_ready]
        return web.json_response({"id": identity})

    async def _result(self, request: web.Request) -> web.StreamResponse:
        identity = request.match_info["id"]
        if identity not in self.generations:
            return refusal(404)
        prompt, seed, left = self.generations[identity]
        if left:
            self.generations[identity][2] = int(str(left)) - 1
            return web.json_response({"id": identity, "status": "in-progress"}, status=202)
        headers = {"Content-Type": "image/png", "finish-reason": "SUCCESS", "seed": str(seed)}
        return web.Response(body=shop_image(str(prompt), str(seed)), headers=headers)


def shop_image(prompt: str, seed: str) -> bytes:
    """Return the image of a prompt and a seed: always the same."""
    width = 64 + len(prompt)
    return png_header(width, 64) + f"{prompt} {seed}".encode() * 20


def refusal(status: int) -> web.Response:
    name, error = REFUSALS[status]
    return web.json_response({"id": "x", "name": name, "errors": [error]}, status=status)
