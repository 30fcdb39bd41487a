"""The API's behaviour from the arrival of a request to its answer, apart from HTTP.

The order is the real service's: the quota, then the parameters (all problems at once), then the
key, the credits, and the content; v1 checks the key first. See docs/sandbox.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stable_async.sandbox import v1
from stable_async.sandbox.account import Account
from stable_async.sandbox.answers import Answer, json_answer, output_answer, v1_answer
from stable_async.sandbox.billing import Caller
from stable_async.sandbox.checks import body_limit, header_problems, path_problems, too_large
from stable_async.sandbox.clock import Clock
from stable_async.sandbox.edge import edge_fault
from stable_async.sandbox.faults import Edge
from stable_async.sandbox.forms import BodyError, BodyTooLargeError, Form, read_form, read_json
from stable_async.sandbox.refusals import RefusalError
from stable_async.sandbox.render import output
from stable_async.sandbox.render.edits import UnreadableError
from stable_async.sandbox.results import Result
from stable_async.sandbox.spec.facts import load_facts
from stable_async.sandbox.spec.fields import Parameters, read_parameters
from stable_async.sandbox.spec.prices import price
from stable_async.sandbox.spec.rules import broken_rules
from stable_async.sandbox.triggers import moderate, triggered

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterator, Mapping

    from stable_async.sandbox.answers import Drop
    from stable_async.sandbox.request_log import RequestRecord
    from stable_async.sandbox.settings import SandboxSettings
    from stable_async.sandbox.spec.facts import Facts, Operation

__all__ = ["Call", "Service", "fingerprint"]

MIRROR_PREFIX = "/sd"
CLIENT_HEADERS = ("stability-client-id", "stability-client-user-id", "stability-client-version")
# Assumed latency of an operation that has not been timed, seconds.
UNTIMED = 10.0
# Of the 45.7 s of a creative upscale, the submit took 4.5 s (live, 2026-09-22).
SUBMIT_SHARE = 0.1
LATENCY_VARIATION = 0.15
MAX_SEED = 4294967294
USER: dict[str, object] = {
    "id": "user-sandbox",
    "email": "developer@example.com",
    "organizations": [
        {"id": "org-sandbox", "name": "Sandbox", "role": "ADMIN", "is_default": True}
    ],
}


@dataclass(slots=True)
class Call:
    """A request in the form that the service needs.

    Attributes:
        account: The account that it belongs to.
        record: Its record in the log, with method, path and time of arrival.
        headers: Lower-case names.
        body: The body's chunks.
        length: The declared length of the body; `None` without one.
    """

    account: Account
    record: RequestRecord
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    length: int | None

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

    @property
    def caller(self) -> Caller:
        """The caller to charge."""
        return Caller(
            self.record.key,
            self.headers.get("stability-client-id", ""),
            self.headers.get("stability-client-user-id", ""),
        )


class Service:
    """Answers requests."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Begin with a fresh account.

        Raises:
            OSError: The facts file in the settings cannot be read.
            ValueError: It is not a facts file, or `edge_rates` names an unknown edge fault.
        """
        self.settings = settings
        self.facts: Facts = load_facts(settings.facts)
        self.clock: Clock = Clock()
        self.account: Account = Account(settings, self.clock)
        self._edge_rates = [
            (Edge(fault, fault.reached), rate)
            for fault, rate in ((edge_fault(k), r) for k, r in settings.edge_rates.items())
        ]
        # One worker: rendering must not take more than one core, nor block the event loop.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sandbox-render")
        self._routes: list[tuple[re.Pattern[str], Operation]] = [
            (operation.pattern(), operation) for operation in self.facts.operations
        ]

    def reset(self) -> None:
        """Start over with a new account. Requests in flight end with the old one."""
        self.account = Account(self.settings, self.clock)

    def close(self) -> None:
        """Stop working; what is being rendered is finished, what is waiting is not started."""
        self._pool.shutdown(cancel_futures=True)

    async def answer(self, call: Call) -> Answer:
        """Return the answer to a request."""
        account, record = call.account, call.record
        mirror = record.path.startswith(f"{MIRROR_PREFIX}/")
        path = record.path.removeprefix(MIRROR_PREFIX) if mirror else record.path
        api = "v1" if path.startswith("/v1/") else "v2"
        record.key = fingerprint(call.key)
        form = Form()
        edge: Edge | None = None
        try:
            try:
                self._admit(account, record)
                operation, variables = self._route(call, path, api)
                record.operation = operation.id
                form = await _read(self.facts, operation, call)
                record.take(form)
            finally:
                account.log.append(record)
            if delay := account.faults.delays.take(record, call.headers, self.clock.now()):
                await self.clock.sleep_until(self.clock.now() + delay)
            edge = self._edge_fault(call, variables)
            if edge and edge.fault.page and not edge.charged:
                return edge.fault.page()
            if script := account.faults.scripts.take(record, call.headers, self.clock.now()):
                return script.answer()
            if failure := account.faults.failures.take(record, call.headers, self.clock.now()):
                raise RefusalError(
                    failure.status, name=failure.name, retry_after=failure.retry_after
                )
            answer = await self._perform(operation, variables, form, call, mirror=mirror)
            answer.drop = answer.drop or self._drop(call)
        except RefusalError as error:
            answer = self._refuse(error, call, api)
        finally:
            form.close()
        if api == "v2":
            answer.set_default("x-request-id", account.draw_id(32))
        if edge and edge.fault.page:
            return edge.fault.page()
        if edge and edge.fault.alter:
            edge.fault.alter(answer)
        return answer

    def _refuse(self, error: RefusalError, call: Call, api: str) -> Answer:
        drawn = call.account.draw_id(32)
        body = error.body(self.facts, api, drawn)
        call.record.problems = body.messages
        answer = json_answer(error.status, body.json())
        if api == "v2":
            answer.headers.append(("x-request-id", drawn))
        if error.retry_after is not None:
            answer.headers.append(("retry-after", str(error.retry_after)))
        return answer

    def _admit(self, account: Account, record: RequestRecord) -> None:
        if account.quota.admit(record.key, record.arrival):
            return
        account.counts.refused += 1
        settings = self.settings
        raise RefusalError(
            429,
            f"You have exceeded the rate limit of {settings.requests} requests within a "
            f"{settings.window:g} second period, and have been timed out for "
            f"{settings.penalty:g} seconds.",
            name="rate_limit_exceeded",
        )

    def _route(self, call: Call, path: str, api: str) -> tuple[Operation, Mapping[str, str]]:
        for pattern, operation in self._routes:
            if call.record.method == operation.method and (match := pattern.fullmatch(path)):
                return operation, match.groupdict()
        if api == "v1":
            # Observed live: an unknown v1 path without a key is a 401.
            self._check_key(call.key, api)
        raise RefusalError(404, "The requested path was not found.", name="not_found")

    def _edge_fault(self, call: Call, variables: Mapping[str, str]) -> Edge | None:
        account, record = call.account, call.record
        if "id" in variables and record.method == "GET":
            result = account.results.get(variables["id"], record.key, self.clock.now())
            if result is not None:
                result.looks += 1
                record.look = result.looks
        edge = account.faults.edges.take(record, call.headers, self.clock.now())
        for possible, rate in self._edge_rates:
            if edge is None and rate and account.random.random() < rate:
                edge = possible
        if edge is None or (edge.fault.first_look and record.look != 1):
            return None
        record.edge = edge.fault.name
        account.counts.edge_faults[edge.fault.name] += 1
        return edge

    async def _perform(
        self,
        operation: Operation,
        variables: Mapping[str, str],
        form: Form,
        call: Call,
        *,
        mirror: bool,
    ) -> Answer:
        is_v1 = operation.api == "v1"
        if is_v1:
            self._check_key(call.key, "v1")
            v1.check_files(form)
        parameters, problems = read_parameters(operation, form, mirror=mirror)
        problems += broken_rules(operation, parameters)
        problems += path_problems(operation, variables)
        problems = header_problems(self.facts, operation, call.headers) + problems
        if problems:
            raise RefusalError(400, *problems, name="bad_request")
        if is_v1 and "engine_id" in variables:
            engine = v1.find_engine(self.facts, operation, variables["engine_id"])
            v1.check(operation, engine, parameters, call.accept)
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
            raise RefusalError(401, text + "https://stability.ai.", name="unauthorized")
        raise RefusalError(401)

    def _look_up(self, operation: Operation, variables: Mapping[str, str], call: Call) -> Answer:
        account = call.account
        match operation.id:
            case "v1_user_balance":
                return json_answer(200, {"credits": account.balance()})
            case "v1_user_account":
                return json_answer(200, USER)
            case "v1_engines_list":
                return json_answer(200, v1.engines_list(self.facts))
        now = self.clock.now()
        result_id = variables["id"]
        account.counts.polls += 1
        result = account.results.get(result_id, call.record.key, now)
        if result is None or not _fits(operation, result.operation):
            raise RefusalError(404)
        account.counts.polls_too_soon += not result.poll(now)
        if now < result.ready_at or result.looks <= result.running_looks:
            return json_answer(202, {"id": result_id, "status": "in-progress"})
        made = result.output
        call.record.seed, call.record.finish_reason = made.seed, made.finish_reason
        account.keep_thumbnail(call.record.number, made.thumbnail)
        return output_answer(made, call.accept, looked_up=True)

    async def _work(self, operation: Operation, parameters: Parameters, call: Call) -> Answer:
        account, record = call.account, call.record
        cost = price(operation, parameters)
        if cost > account.left():
            raise RefusalError(402)
        words = triggered(parameters)
        moderate(operation, words)
        if "error" in words or account.random.random() < self.settings.fail_rate:
            raise RefusalError(500)
        try:
            outputs = await self._make(operation, parameters, call, filtered="filtered" in words)
        except UnreadableError as error:
            text = f"{error}: could not be read as an image"
            raise RefusalError(400, text, name="bad_request") from error
        first = outputs[0]
        record.credits, record.seed = cost, first.seed
        record.finish_reason = first.finish_reason
        account.keep_thumbnail(record.number, first.thumbnail)
        if operation.submits:
            answer = self._submitted(operation, parameters, first, call)
        elif operation.api == "v1":
            answer = v1_answer(outputs, call.accept)
        elif operation.accept:
            answer = output_answer(first, call.accept)
        else:
            answer = Answer(200, first.content_type, first.data)
        answer.drop = "before_headers" if "drop" in words else None
        return answer

    async def _make(
        self, operation: Operation, parameters: Parameters, call: Call, *, filtered: bool
    ) -> list[output.Output]:
        """Return the outputs once their latency has passed; they are rendered meanwhile.

        The charge is made at the start: a client that disconnects pays. An unreadable upload is
        detected before.
        """
        account = call.account
        first = int(parameters.number("seed")) or account.random.randrange(1, MAX_SEED)
        count = int(parameters.number("samples")) or 1
        tasks = [
            output.RenderTask(
                operation, parameters, (first + number) % (MAX_SEED + 1), filtered=filtered
            )
            for number in range(count)
        ]
        given = account.faults.outputs.take(call.record, call.headers, self.clock.now())
        if given is not None and given.data is not None:
            made = [output.given(task, given.data, given.content_type) for task in tasks]
            work = []
        else:
            work = [self._pool.submit(output.render, task) for task in tasks]
        cost = price(operation, parameters)
        account.bill.charge(call.caller, operation.id, cost, self.clock.now())
        try:
            latency = self._latency(operation, parameters, account)
            share = SUBMIT_SHARE if operation.submits else 1.0
            await self.clock.sleep_until(call.record.arrival + latency * share)
            if work:
                made = [await asyncio.wrap_future(future) for future in work]
        except UnreadableError:
            account.bill.refund(call.caller, operation.id, cost, self.clock.now())
            raise
        finally:
            # The uploaded files are about to be closed, so nothing may still be reading them.
            for future in work:
                future.cancel()
            if not all(future.done() for future in work):
                await asyncio.to_thread(wait, work)
        if given is None:
            return made
        changes = {"seed": given.seed, "finish_reason": given.finish_reason}
        stated = {name: value for name, value in changes.items() if value is not None}
        return [replace(one, **stated) for one in made]  # type: ignore[arg-type]

    def _submitted(
        self, operation: Operation, parameters: Parameters, made: output.Output, call: Call
    ) -> Answer:
        account = call.account
        result_id = account.draw_id(64)
        ready_at = call.record.arrival + self._latency(operation, parameters, account)
        looks = account.faults.looks.take(call.record, call.headers, self.clock.now()) or 0
        result = Result(
            operation.id, call.record.key, made, len(made.data), ready_at, running_looks=looks
        )
        account.results.put(result_id, result, self.clock.now())
        return json_answer(operation.submit_status, {"id": result_id})

    def _latency(self, operation: Operation, parameters: Parameters, account: Account) -> float:
        if self.settings.latency != "observed":
            return self.settings.latency
        seen = operation.latency(parameters.text("model"))
        factor = account.random.uniform(1 - LATENCY_VARIATION, 1 + LATENCY_VARIATION)
        return (UNTIMED if seen is None else seen) * factor

    def _drop(self, call: Call) -> Drop | None:
        account = call.account
        if drop := account.faults.drops.take(call.record, call.headers, self.clock.now()):
            return drop
        if account.random.random() < self.settings.drop_rate:
            return account.random.choice(("before_headers", "mid_headers", "mid_body"))
        return None


async def _read(facts: Facts, operation: Operation, call: Call) -> Form:
    """Return the parsed body.

    Raises:
        RefusalError: It cannot be read, or is too large.
    """
    limit = body_limit(facts, operation)
    try:
        if call.length is not None and call.length > limit:
            raise BodyTooLargeError
        if operation.body == "none":
            return Form()
        if operation.body == "json":
            return v1.form_of_json(operation, await read_json(call.body))
        files = {field.name for field in operation.fields if field.type == "file"}
        return await read_form(call.headers.get("content-type", ""), call.body, limit, files)
    except BodyError as error:
        raise RefusalError(400, str(error), name="bad_request") from error
    except BodyTooLargeError:
        raise too_large(facts, operation, limit) from None


def fingerprint(key: str) -> str:
    """Return the fingerprint that represents a key in logs and bills; empty for no key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12] if key else ""


def _fits(look_up: Operation, submit: str) -> bool:
    """Whether `look_up` finds results of the operation `submit`."""
    match look_up.id:
        case "audio_results":
            return submit.startswith("stable_audio")
        case "upscale_creative_result":
            return submit == "upscale_creative"
        case "v2alpha_upscale_result":
            return submit == "v2alpha_upscale"
    return submit in {"upscale_creative", "edit_replace_background_and_relight"}
