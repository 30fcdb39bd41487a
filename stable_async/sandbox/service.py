"""The API's behaviour from a request's arrival to its answer, apart from HTTP itself.

The order is the real service's: the quota, then the parameters (all problems at once), then the
key, the credits, and the content; v1 looks at the key first. See docs/sandbox.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.sandbox.answers import (
    Answer,
    json_answer,
    product_answer,
    refused,
    v1_answer,
)
from stable_async.sandbox.counting import QuotaBook
from stable_async.sandbox.engines import (
    check_v1,
    check_v1_files,
    engines_list,
    find_engine,
    form_of_json,
)
from stable_async.sandbox.faults import Drop, Faults
from stable_async.sandbox.forms import BodyError, BodyTooLargeError, Form, read_form, read_json
from stable_async.sandbox.refusals import RefusalError, refusal
from stable_async.sandbox.render import engine
from stable_async.sandbox.render.edits import UnreadableError
from stable_async.sandbox.request_log import RequestLog, RequestRecord, Statistics, Tally
from stable_async.sandbox.results import Result, ResultStore
from stable_async.sandbox.spec.facts import load_facts
from stable_async.sandbox.spec.fields import Parameters, read_parameters
from stable_async.sandbox.spec.prices import price
from stable_async.sandbox.spec.rules import broken_rules
from stable_async.sandbox.triggers import triggered

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterator, Mapping

    from stable_async.sandbox.settings import SandboxSettings
    from stable_async.sandbox.spec.facts import Operation

__all__ = ["Call", "Service"]

MIRROR_PREFIX = "/sd"
CLIENT_HEADERS = ("stability-client-id", "stability-client-user-id", "stability-client-version")
CLIENT_HEADER_LENGTH = 256
# An operation that nobody has timed is taken to need this long, seconds.
UNTIMED = 10.0
# Of the 45.7 s of a creative upscale, the submit took 4.5 s (live, 2026-09-22).
SUBMIT_SHARE = 0.1
SPREAD_OF_LATENCY = 0.15
THUMBNAILS = 64
MAX_SEED = 4294967294
ACCOUNT = {
    "id": "user-sandbox",
    "email": "developer@example.com",
    "organizations": [
        {"id": "org-sandbox", "name": "Sandbox", "role": "ADMIN", "is_default": True}
    ],
}


@dataclass(slots=True)
class Call:
    """A request as the service needs it.

    Attributes:
        method: HTTP method.
        path: Path without the query, decoded.
        headers: Lower-case names.
        arrival: Seconds of `time.monotonic()`.
        body: The body's chunks.
        length: The declared length of the body; `None` without one.
        record: What is written down of it.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    arrival: float
    body: AsyncIterator[bytes]
    length: int | None
    record: RequestRecord

    @property
    def key(self) -> str:
        """The API key, sent as `Bearer <key>` or bare; empty when there is none."""
        value = self.headers.get("authorization", "").strip()
        scheme, _, rest = value.partition(" ")
        return rest.strip() if scheme.lower() == "bearer" else value

    @property
    def accept(self) -> str:
        """The accept header; empty when there is none."""
        return self.headers.get("accept", "").strip().lower()


class Service:
    """One pretended account: its quota, credits, results and faults."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Begin with a fresh quota and the settings' credits."""
        self.settings = settings
        self.faults = Faults()
        self.log = RequestLog()
        self.tally = Tally()
        self.thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._random = random.Random(settings.seed)  # noqa: S311
        phase = self._random.uniform(0, settings.window)
        self.quota = QuotaBook(
            settings.counting, settings.requests, settings.window, settings.penalty, phase
        )
        self._results: ResultStore = ResultStore()
        self._spent = 0.0
        # One worker: drawing must not take more than a core, nor the event loop's time.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sandbox-studio")
        self._routes: list[tuple[re.Pattern[str], Operation]] = [
            (operation.pattern(), operation) for operation in load_facts().operations
        ]

    def close(self) -> None:
        """Stop working; what is being drawn is finished, what waits is not begun."""
        self._pool.shutdown(cancel_futures=True)

    def statistics(self) -> Statistics:
        """Give the figures since the start."""
        tally = self.tally
        return Statistics(
            requests=tally.requests,
            answered=dict(sorted(tally.answered.items())),
            refused=tally.refused,
            dropped=tally.dropped,
            broken_off=tally.broken_off,
            in_flight=tally.in_flight,
            peak_in_flight=tally.peak_in_flight,
            most_in_window=self.quota.most(),
            polls=tally.polls,
            polls_too_soon=tally.polls_too_soon,
            credits_spent=round(self._spent, 4),
            credits_left=self.balance,
        )

    @property
    def balance(self) -> float:
        """The credits left."""
        return 0.0 if self.faults.exhausted else round(self.settings.credits - self._spent, 4)

    def penalty(self, seconds: float) -> None:
        """Shut every key out for so many seconds from now."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        self.quota.shut_all(time.monotonic() + seconds)

    def clear(self) -> None:
        """Take back every switch, the time-out of all keys included."""
        self.faults.clear()
        self.quota.shut_all(float("-inf"))

    async def answer(self, call: Call) -> Answer:
        """Give the answer to a request."""
        mirror = call.path.startswith(f"{MIRROR_PREFIX}/")
        path = call.path.removeprefix(MIRROR_PREFIX) if mirror else call.path
        api = "v1" if path.startswith("/v1/") else "v2"
        record = call.record
        record.key = _fingerprint(call.key)
        form = Form()
        try:
            try:
                self._admit(record, api)
                operation, variables = self._route(call, path, api)
                record.operation = operation.id
                form = await _read(operation, call)
                record.take(form)
            finally:
                self.log.append(record)
            await self._delay_and_fail(operation)
            answer = await self._perform(operation, variables, form, call, mirror=mirror)
            answer.drop = answer.drop or self._drop()
        except RefusalError as error:
            record.problems = error.messages
            answer = refused(error, api, self._draw_id(32))
        finally:
            form.close()
        if api == "v2":
            answer.headers.setdefault("x-request-id", self._draw_id(32))
        return answer

    def _admit(self, record: RequestRecord, api: str) -> None:
        if self.quota.admit(record.key, record.arrival):
            return
        self.tally.refused += 1
        settings = self.settings
        raise refusal(
            429,
            api,
            f"You have exceeded the rate limit of {settings.requests} requests within a "
            f"{settings.window:g} second period, and have been timed out for "
            f"{settings.penalty:g} seconds.",
            name="rate_limit_exceeded",
        )

    def _route(self, call: Call, path: str, api: str) -> tuple[Operation, Mapping[str, str]]:
        for pattern, operation in self._routes:
            if call.method == operation.method and (match := pattern.fullmatch(path)):
                return operation, match.groupdict()
        if api == "v1":
            # Seen live: an unknown v1 path without a key is a 401.
            self._check_key(call.key, api)
        raise refusal(404, api, "The requested path was not found.", name="not_found")

    async def _delay_and_fail(self, operation: Operation) -> None:
        if delay := self.faults.take_delay():
            await asyncio.sleep(delay)
        if failure := self.faults.take_failure(operation.id):
            raise refusal(
                failure.status,
                operation.api,
                name=failure.name,
                retry_after=failure.retry_after,
            )

    async def _perform(
        self,
        operation: Operation,
        variables: Mapping[str, str],
        form: Form,
        call: Call,
        *,
        mirror: bool,
    ) -> Answer:
        v1 = operation.api == "v1"
        if v1:
            self._check_key(call.key, "v1")
            check_v1_files(form)
        parameters, problems = read_parameters(operation, form, mirror=mirror)
        problems += broken_rules(operation, parameters)
        problems += _path_problems(operation, variables)
        problems = _header_problems(operation, call.headers) + problems
        if problems:
            raise refusal(400, operation.api, *problems, name="bad_request")
        if v1 and "engine_id" in variables:
            engine = find_engine(operation, variables["engine_id"])
            check_v1(operation, engine, parameters, call.accept)
        self._check_key(call.key, operation.api)
        if operation.method == "GET":
            return self._look_up(operation, variables, call)
        return await self._work(operation, parameters, call)

    def _check_key(self, key: str, api: str) -> None:
        known = self.settings.api_keys
        if key and (key in known if known is not None else "invalid" not in key):
            return
        if api == "v1" and key:
            # The real service echoes the key; clients must not pass this text on.
            text = f"Incorrect API key provided: {key}. You can find your API key at "
            raise refusal(401, api, text + "https://stability.ai.", name="unauthorized")
        raise refusal(401, api)

    def _look_up(self, operation: Operation, variables: Mapping[str, str], call: Call) -> Answer:
        match operation.id:
            case "v1_user_balance":
                return json_answer(200, {"credits": self.balance})
            case "v1_user_account":
                return json_answer(200, ACCOUNT)
            case "v1_engines_list":
                return json_answer(200, engines_list())
        now = time.monotonic()
        result_id = variables["id"]
        self.tally.polls += 1
        result = self._results.get(result_id, call.record.key, now)
        if result is None or not _fits(operation, result.operation):
            raise refusal(404, "v2")
        self.tally.polls_too_soon += not result.poll(now)
        if now < result.ready_at:
            return json_answer(202, {"id": result_id, "status": "in-progress"})
        product = result.product
        call.record.seed, call.record.finish_reason = product.seed, product.finish_reason
        self._keep_thumbnail(call.record.number, product.thumbnail)
        return product_answer(product, call.accept)

    async def _work(self, operation: Operation, parameters: Parameters, call: Call) -> Answer:
        cost = price(operation, parameters)
        if cost > self.balance:
            raise refusal(402, "v2")
        words = triggered(parameters)
        _moderate(operation, words)
        if "error" in words or self._random.random() < self.settings.fail_rate:
            raise refusal(500, operation.api)
        self._spent += cost
        try:
            products = await self._make(operation, parameters, call, filtered="filtered" in words)
        except UnreadableError as error:
            self._spent -= cost
            text = f"{error}: could not be read as an image"
            raise refusal(400, operation.api, text, name="bad_request") from error
        record, product = call.record, products[0]
        record.credits, record.seed = cost, product.seed
        record.finish_reason = product.finish_reason
        self._keep_thumbnail(record.number, product.thumbnail)
        if operation.submits:
            answer = self._submitted(operation, parameters, product, call)
        elif operation.api == "v1":
            answer = v1_answer(products, call.accept)
        elif operation.accept:
            answer = product_answer(product, call.accept)
        else:
            answer = Answer(200, product.content_type, product.data)
        answer.drop = "before_headers" if "drop" in words else None
        return answer

    async def _make(
        self, operation: Operation, parameters: Parameters, call: Call, *, filtered: bool
    ) -> list[engine.Product]:
        """Give the products once their time has come; they are made meanwhile."""
        first = int(parameters.number("seed")) or self._random.randrange(1, MAX_SEED)
        count = int(parameters.number("samples")) or 1
        jobs = [
            engine.Job(operation, parameters, (first + number) % (MAX_SEED + 1), filtered=filtered)
            for number in range(count)
        ]
        work = [self._pool.submit(engine.make, job) for job in jobs]
        try:
            latency = self._latency(operation, parameters)
            share = SUBMIT_SHARE if operation.submits else 1.0
            await asyncio.sleep(max(0.0, call.arrival + latency * share - time.monotonic()))
            return [await asyncio.wrap_future(future) for future in work]
        finally:
            # The uploaded files are closed soon, so nothing may still be reading them.
            for future in work:
                future.cancel()
            if not all(future.done() for future in work):
                await asyncio.to_thread(wait, work)

    def _submitted(
        self, operation: Operation, parameters: Parameters, product: engine.Product, call: Call
    ) -> Answer:
        result_id = self._draw_id(64)
        ready_at = call.arrival + self._latency(operation, parameters)
        result = Result(operation.id, call.record.key, product, len(product.data), ready_at)
        self._results.put(result_id, result, time.monotonic())
        return json_answer(operation.submit_status, {"id": result_id})

    def _latency(self, operation: Operation, parameters: Parameters) -> float:
        if self.settings.latency != "observed":
            return self.settings.latency
        model = parameters.text("model")
        seen = operation.latency_per_model.get(model, operation.latency)
        spread = self._random.uniform(1 - SPREAD_OF_LATENCY, 1 + SPREAD_OF_LATENCY)
        return (UNTIMED if seen is None else seen) * spread

    def _drop(self) -> Drop | None:
        if drop := self.faults.take_drop():
            return drop
        if self._random.random() < self.settings.drop_rate:
            return self._random.choice(("before_headers", "mid_headers", "mid_body"))
        return None

    def _keep_thumbnail(self, number: int, thumbnail: bytes) -> None:
        if thumbnail:
            self.thumbnails[number] = thumbnail
            while len(self.thumbnails) > THUMBNAILS:
                self.thumbnails.popitem(last=False)

    def _draw_id(self, length: int) -> str:
        return f"{self._random.getrandbits(length * 4):0{length}x}"


async def _read(operation: Operation, call: Call) -> Form:
    """Give what the body holds.

    Raises:
        RefusalError: It cannot be read, or is too large.
    """
    limit = _body_limit(operation)
    try:
        if call.length is not None and call.length > limit:
            raise BodyTooLargeError
        if operation.body == "none":
            return Form()
        if operation.body == "json":
            return form_of_json(operation, await read_json(call.body))
        return await read_form(call.headers.get("content-type", ""), call.body, limit)
    except BodyError as error:
        raise refusal(400, operation.api, str(error), name="bad_request") from error
    except BodyTooLargeError:
        raise _too_large(operation, limit) from None


def _moderate(operation: Operation, words: set[str]) -> None:
    """Refuse what the trigger words ask to be refused."""
    if operation.api == "v1":
        if "moderated" in words:
            text = "One of the prompts contains filtered words."
            raise refusal(400, "v1", text, name="invalid_prompts")
        return
    audio = operation.id.startswith("stable_audio")
    if "moderated" in words:
        raise refusal(403, "v2")
    for word, name, applies in (
        ("language", "invalid_language", True),
        ("public-figure", "public_figure", not audio),
        ("copyrighted", "copyrighted_content", audio),
    ):
        if word in words and applies:
            raise refusal(422, "v2", name=name)


def _fingerprint(key: str) -> str:
    """Give what stands for a key in logs; empty for no key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12] if key else ""


def _body_limit(operation: Operation) -> int:
    """Give the most bytes that a request of `operation` may have."""
    limits = load_facts().max_request
    if "request at most 50Mb" in operation.rules:
        return limits["stable_audio_2"]
    if "request at most 100Mb" in operation.rules:
        return limits["stable_audio_3"]
    return limits["default"]


def _too_large(operation: Operation, limit: int) -> RefusalError:
    if operation.api == "v1":
        return refusal(400, "v1", "request is too large", name="invalid_file_size")
    if limit == load_facts().max_request["default"]:
        return refusal(413, "v2")
    text = f"body: payloads cannot be larger than {limit // 1_000_000}MB in size"
    return refusal(413, "v2", text)


def _header_problems(operation: Operation, headers: Mapping[str, str]) -> list[str]:
    problems = []
    accept = headers.get("accept", "").strip().lower()
    anything = not operation.accept or "*/*" in operation.accept
    # v1 was written for clients that do not say what they accept, as curl does not.
    allowed = {"", *operation.accept, *(["*/*"] if operation.api == "v1" else [])}
    if not anything and accept not in allowed:
        problems.append(f"accept: must be one of: {', '.join(operation.accept)}")
    problems += [
        f"{name}: must be at most {CLIENT_HEADER_LENGTH} characters long"
        for name in CLIENT_HEADERS
        if operation.api == "v2" and len(headers.get(name, "")) > CLIENT_HEADER_LENGTH
    ]
    return problems


def _path_problems(operation: Operation, variables: Mapping[str, str]) -> list[str]:
    """Give what is wrong with the parts of the path, as `field: problem`."""
    return [
        f"{field.name}: must be {field.min_length} characters long"
        for field in operation.fields
        if field.place == "path"
        and field.max_length is not None
        and len(variables[field.name]) != field.max_length
    ]


def _fits(look_up: Operation, submit: str) -> bool:
    """Whether results of the operation called `submit` are found where `look_up` looks."""
    match look_up.id:
        case "audio_results":
            return submit.startswith("stable_audio")
        case "upscale_creative_result":
            return submit == "upscale_creative"
        case "v2alpha_upscale_result":
            return submit == "v2alpha_upscale"
    return submit in {"upscale_creative", "edit_replace_background_and_relight"}
