"""Compares the facts with an API: what to send, what the answers show, and when to stop.

How it costs nothing. For v2, probes carry no key: the API checks parameters before the key, so that
a valid request is answered with 401 and an invalid one with 400, and neither does any work. Where
parameters are not checked first, and for v1, which checks the key first, a probe with the key is
invalid in two ways: a required field is missing, and another has an impossible value. If the API
accepts one nevertheless, that is counted, reported, and ends the probing of that operation.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal

from stable_async.sandbox.probing.claims import Claim, claims
from stable_async.sandbox.probing.findings import PAID, Finding, Findings
from stable_async.sandbox.probing.messages import ProbeAnswer, ProbeRequest
from stable_async.sandbox.probing.probes import Probe, probes
from stable_async.sandbox.probing.purchases import Purchases
from stable_async.sandbox.probing.requests import request_for, smallest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from stable_async.sandbox.probing.requests import Value
    from stable_async.sandbox.spec.facts import Facts, Operation

__all__ = ["Prober"]

KEYLESS, POISONED = "keyless", "poisoned"
NOWHERE = "0" * 64
UNREADABLE = "not an answer of the API"


class _StoppedError(Exception):
    """Probing must end; the message says why."""


class Prober:
    """Compares facts with an API."""

    def __init__(
        self,
        facts: Facts,
        send: Callable[[ProbeRequest], Awaitable[ProbeAnswer]],
        *,
        key: str = "",
        credits: float = 0.0,  # noqa: A002 - the API's word
        operations: frozenset[str] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what is needed.

        Args:
            facts: The facts to check.
            send: Sends a request, within the quota.
            key: The key, to keep it out of the findings.
            credits: How many credits may be spent, by the price list.
            operations: Ids of the operations to probe, with an empty one for what is common to all;
                `None` means everything.
            progress: Called with the id of each operation.
        """
        self._facts = facts
        self._send_request = send
        self._credits = credits
        self._only = operations
        self._progress = progress
        self._findings = Findings(claims(facts), key)
        self._mode = {"v1": POISONED, "v2": KEYLESS}
        self.requests: int = 0
        self.accepted: list[str] = []
        self.stopped: str = ""
        self._purchases = Purchases(self._findings, self._send, credits, progress)

    async def run(self) -> list[Finding]:
        """Return the finding for every claim, in the order of the facts."""
        try:
            await self._order_of_checks()
            for operation in self._asked_for():
                self._progress(operation.id)
                await self._operation(operation)
            if self._only is None or "" in self._only:
                await self._common()
            if self._credits > 0:
                await self._purchases.run(self._asked_for())
        except _StoppedError as stopped:
            self.stopped = str(stopped)
        return [
            self._findings.finding(claim, self.stopped)
            for claim in self._findings.claims.values()
            if self._asked(claim)
        ]

    def _asked(self, claim: Claim) -> bool:
        return self._only is None or claim.operation in self._only

    def _asked_for(self) -> list[Operation]:
        only = self._only
        return [one for one in self._facts.operations if only is None or one.id in only]

    @property
    def spent(self) -> float:
        """Credits spent, by the price list or by the balance, whichever says more."""
        return self._purchases.spent

    async def _send(self, request: ProbeRequest) -> ProbeAnswer:
        self.requests += 1
        answer = await self._send_request(request)
        if answer.status == 429:
            raise _StoppedError("stopped: the API answered 429")
        if answer.status == 402:
            raise _StoppedError("stopped: the credits are used up")
        return answer

    # -- what is common to all -------------------------------------------------------------------

    async def _order_of_checks(self) -> None:
        """Find out whether v2 checks parameters before the key, as keyless probes require."""
        core = self._facts.operations[0]
        answer = await self._send(_form(core.path, {"seed": "banana"}, {"accept": "image/*"}))
        name = "behaviours.parameters_before_key"
        if answer.status == 401 and answer.from_api:
            self._mode["v2"] = POISONED
            self._findings.note(name, "differs", "the key is checked first", answer)
        elif answer.status == 400 and answer.from_api:
            self._findings.note(name, "agrees", "400 without a key")
            both = {"prompt", "seed"} <= answer.names
            name = "behaviours.all_problems_at_once"
            self._findings.judge(name, both, "prompt and seed", answer)
        self._envelope("v2", answer)
        self._error_name(answer, "v2")

    def _envelope(self, api: Literal["v1", "v2"], answer: ProbeAnswer) -> None:
        known = self._facts.error_envelopes.get(api)
        if known is None or answer.status < 400 or not answer.content:
            return
        same = set(known.required) == answer.content.keys()
        self._findings.judge(f"envelopes.{api}", same, "the keys", answer)

    def _error_name(self, answer: ProbeAnswer, api: str, text: bool = False) -> None:
        """Compare name, and text where it is documented, with the facts of the status."""
        documented = self._facts.errors_of(answer.status, api)
        if not documented or not answer.from_api:
            return
        names = {error.name for error in documented}
        name = str(answer.content.get("name"))
        for number, error in enumerate(self._facts.errors.get(answer.status, ())):
            place = f"errors.{answer.status}.{api}.{error.name}"
            if error.api != api:
                continue
            if f"{place}.{number}" in self._findings.claims:
                place = f"{place}.{number}"
            if name not in names:
                self._findings.note(place, "differs", f"it is called {name}", answer)
            elif name == error.name:
                if not text or not error.messages:
                    self._findings.note(place, "agrees", "the name")
                elif tuple(answer.problems) == error.messages or _alike(error.messages, answer):
                    self._findings.note(place, "agrees", "name and text")
                elif len(documented) == 1:
                    self._findings.note(place, "differs", "the text is another", answer)

    async def _common(self) -> None:
        await self._errors()
        await self._headers()
        await self._ignored_part()
        await self._too_large()
        await self._removed()
        await self._engines()

    async def _errors(self) -> None:
        core = self._facts.operations[0]
        if self._mode["v2"] == KEYLESS:
            answer = await self._send(request_for(core, {}, keyed=False))
            if answer.status == 401:
                self._error_name(answer, "v2", text=True)
        lost = ProbeRequest("GET", f"/v2beta/results/{NOWHERE}", keyed=True)
        answer = await self._send(lost)
        self._status("errors.404.v2.generation_not_found", answer, 404)
        self._error_name(answer, "v2", text=True)
        for key in (None, "sk-invalid-probe"):
            request = ProbeRequest("GET", "/v1/user/balance", keyed=key is not None, key=key)
            answer = await self._send(request)
            self._status("errors.401.v1.unauthorized", answer, 401)
            self._error_name(answer, "v1", text=True)
            self._envelope("v1", answer)
        answer = await self._send(ProbeRequest("GET", "/v1/no-such-path"))
        self._status("behaviours.unknown_v1_path", answer, 401)
        text = next((o for o in self._facts.operations if o.id == "v1_text_to_image"), None)
        if text is not None and (broken := _poison(text, "", ())):
            request = request_for(text, broken, keyed=True, engine="no-such-engine")
            answer = await self._send(request)
            if answer.status < 300:
                self._accepted(text, "an engine that does not exist")
            if answer.status == 404:
                self._status("errors.404.v1.not_found", answer, 404)
                self._error_name(answer, "v1")
            else:
                reason = "the fields are checked before the engine"
                self._findings.note("errors.404.v1.not_found", "undecided", reason)

    def _status(self, name: str, answer: ProbeAnswer, status: int) -> None:
        if not answer.from_api:
            self._findings.note(name, "undecided", UNREADABLE, answer)
        elif answer.status != status:
            self._findings.note(name, "differs", f"the status is {answer.status}", answer)
        else:
            self._findings.note(name, "agrees", f"the status is {status}")

    async def _headers(self) -> None:
        core = self._facts.operations[0]
        for header in self._facts.meta.request_headers:
            if header.max_length is None or self._mode["v2"] != KEYLESS:
                continue
            for length, valid in ((header.max_length, True), (header.max_length + 1, False)):
                headers = {header.name: "x" * length}
                answer = await self._send(request_for(core, {}, keyed=False, headers=headers))
                named = header.name in answer.names
                claim, reason = f"headers.{header.name}.max_length", f"{length} characters"
                if answer.from_api:
                    self._findings.judge(claim, valid != named, reason, answer)
                else:
                    self._findings.note(claim, "undecided", reason, answer)

    async def _ignored_part(self) -> None:
        core = self._facts.operations[0]
        if self._mode["v2"] == KEYLESS:
            request = request_for(core, {"none": ""}, keyed=False)
            self._status("behaviours.ignored_part", await self._send(request), 401)

    async def _too_large(self) -> None:
        erase = next((o for o in self._facts.operations if 413 in o.responses), None)
        if erase is None:
            return
        limit = self._facts.max_request()
        for size, over in ((limit - 4096, False), (limit + 4096, True)):
            answer = await self._send(ProbeRequest("POST", erase.path, size=size))
            if not answer.from_api:
                self._findings.note("max_request", "undecided", UNREADABLE, answer)
                continue
            reason = f"{size} bytes: {answer.status}"
            self._findings.judge("max_request", (answer.status == 413) == over, reason, answer)
            if over and answer.status == 413:
                self._error_name(answer, "v2", text=True)

    async def _removed(self) -> None:
        for removed in self._facts.removed:
            for path in removed.paths:
                method = "GET" if "{id}" in path else "POST"
                where = path.replace("{id}", NOWHERE)
                answer = await self._send(ProbeRequest(method, where))
                self._status(f"removed.{path}", answer, 404)

    async def _engines(self) -> None:
        answer = await self._send(ProbeRequest("GET", "/v1/engines/list", keyed=True))
        try:
            listed = {str(one["id"]) for one in json.loads(answer.body)}
        except (ValueError, TypeError, KeyError):
            return
        for engine in self._facts.v1_engines:
            if engine.id in listed:
                self._findings.note(f"engines.{engine.id}", "agrees", "listed")
            else:
                reason = "not among those of this key"
                self._findings.note(f"engines.{engine.id}", "undecided", reason)

    # -- one operation ---------------------------------------------------------------------------

    async def _operation(self, operation: Operation) -> None:
        if operation.method == "GET":
            await self._look_up(operation)
            return
        mode = self._mode[operation.api]
        baseline = await self._baseline(operation, mode)
        if baseline is None:
            return
        for probe in probes(operation):
            if not await self._probe(operation, probe, mode, baseline):
                return

    async def _look_up(self, operation: Operation) -> None:
        """Send free requests: a result that does not exist, balance, account, engines."""
        path = operation.path.replace("{id}", NOWHERE)
        looks = "{id}" in operation.path
        accepts = [value for value in operation.accept if value != "*/*"]
        for accept in accepts or [""]:
            headers = {"accept": accept} if accept else {}
            answer = await self._send(ProbeRequest("GET", path, keyed=True, headers=headers))
            expected = 404 if looks else 200
            known = answer.from_api and (
                not looks or str(answer.content.get("name")) != "not_found"
            )
            if answer.from_api and answer.status == expected and known:
                self._findings.note(f"{operation.id}.path", "agrees", f"{expected}")
                if accept:
                    self._findings.note(f"{operation.id}.accept.{accept}", "agrees", f"{expected}")
            elif answer.status == 404:
                self._findings.note(f"{operation.id}.path", "differs", "404", answer)
            elif "accept" in answer.names:
                name = f"{operation.id}.accept.{accept}"
                self._findings.note(name, "differs", "it is refused", answer)
        if looks and "*/*" in operation.accept:
            self._findings.note(f"{operation.id}.accept.*/*", "agrees", "anything is declared")

    async def _baseline(self, operation: Operation, mode: str) -> set[str] | None:
        """Return the fields because of which the unchanged request is refused; `None` ends the
        probing.
        """
        broken = _poison(operation, "", ()) if mode == POISONED else {}
        if mode == POISONED and not broken:
            # It would be valid, and paid for.
            self._findings.note(f"{operation.id}.path", "undecided", PAID)
            return None
        answer = await self._send(request_for(operation, broken, keyed=mode == POISONED))
        place = f"{operation.id}.path"
        if not answer.from_api:
            self._findings.note(place, "undecided", UNREADABLE, answer)
            return None
        if answer.status in {404, 405}:
            self._findings.note(place, "differs", "there is no such path", answer)
            return None
        if answer.status < 300:
            self._accepted(operation, "the unchanged request")
            return None
        self._findings.note(place, "agrees", f"answers {answer.status}")
        self._envelope(operation.api, answer)
        if answer.status == 400:
            self._error_name(answer, operation.api)
        strange = answer.names - set(broken) if answer.status == 400 else set()
        known = {field.name for field in operation.fields}
        if strange - known:
            reason = f"also asked for: {', '.join(sorted(strange - known))}"
            self._findings.note(f"{operation.id}.fields", "differs", reason, answer)
        elif mode == KEYLESS:
            self._findings.note(f"{operation.id}.fields", "agrees", "nothing else is asked for")
        for name in strange & known:
            self._blame(operation, name, answer)
        return answer.names if answer.status == 400 else set()

    def _blame(self, operation: Operation, name: str, answer: ProbeAnswer) -> None:
        """Record that a field of the unchanged request is refused, or required."""
        field = operation.field(name)
        sent = name in smallest(operation)
        if not sent and not field.required:
            reason = "it is required"
            claim = f"{operation.id}.{name}.required"
            self._findings.note(claim, "differs", reason, answer)
        elif sent and field.type == "file":
            self._findings.note(f"{operation.id}.fields", "differs", f"{name} is refused", answer)
        elif sent and field.type == "enum":
            value = field.values[0]
            claim = f"{operation.id}.{name}.values.{value}"
            self._findings.note(claim, "differs", "it is refused", answer)

    async def _probe(
        self, operation: Operation, probe: Probe, mode: str, baseline: set[str]
    ) -> bool:
        """Send a probe and record what it shows; false ends the operation's probing."""
        name = f"{operation.id}.{probe.claim}"
        changes: dict[str, Value] = dict(probe.changes)
        poison: dict[str, Value] = {}
        if mode == POISONED:
            poison = _poison(operation, probe.field, changes)
            if not poison or probe.field in {"", "*"}:
                self._findings.note(name, "undecided", "needs a request that would be paid for")
                return True
            changes = {**changes, **poison}
        request = request_for(operation, changes, keyed=mode == POISONED, headers=probe.headers)
        answer = await self._send(request)
        if not answer.from_api or answer.status not in {200, 201, 202, 400, 401}:
            self._findings.note(name, "undecided", f"{probe.what}: {UNREADABLE}", answer)
            return answer.status < 500
        if answer.status < 300:
            self._accepted(operation, f"{probe.claim}, {probe.what}")
            self._findings.note(name, "differs", f"{probe.what} was accepted", answer)
            return False
        others = set(poison) if mode == POISONED else baseline
        named = probe.field in answer.names or (
            probe.field in {"", "*"} and bool(answer.names - others)
        )
        refused = answer.status == 400 and named
        if mode == POISONED and not named and not set(poison) <= answer.names:
            reason = f"{probe.what}: the API names one problem at a time"
            self._findings.note(name, "undecided", reason)
            return True
        reason = f"{probe.what}: {'refused' if refused else 'accepted'}"
        if probe.claim.endswith(".values") and refused:
            self._judge_listing(operation, probe.field, answer)
        self._findings.judge(name, refused == (probe.side == "invalid"), reason, answer)
        return True

    def _judge_listing(self, operation: Operation, name: str, answer: ProbeAnswer) -> None:
        """Compare the values that a refusal lists with those of the facts."""
        one = operation.field(name)
        problem = next(text for text in answer.problems if text.partition(":")[0] == name)
        listed, place = _listed(problem), f"{operation.id}.{name}.values.only"
        if not set(one.values) <= listed:
            self._findings.note(place, "undecided", "the refusal does not list them")
        elif more := listed - set(one.values):
            self._findings.note(place, "differs", f"also {', '.join(sorted(more))}", answer)
        else:
            self._findings.note(place, "agrees", "listed by the refusal")

    def _accepted(self, operation: Operation, what: str) -> None:
        """Count a request that did work although it should have been refused."""
        self.accepted.append(f"{operation.id}: {what}")


def _poison(operation: Operation, tested: str, avoid: Collection[str]) -> dict[str, Value]:
    """Return changes that make a request invalid in two ways; empty if there are not enough.

    Fields that a rule mentions are left alone, since the rule might cause the refusal.
    """
    body = [one for one in operation.fields if one.place == "body" and one.name != tested]
    body = [one for one in body if one.name not in avoid]
    missing = next((one.name for one in body if one.required), None)
    changes: dict[str, Value] = {} if missing is None else {missing: None}
    ruled = set(re.findall(r"\w+", " ".join(operation.rules)))
    for one in body:
        if len(changes) < 2 and one.name not in {missing, *ruled}:
            if one.type in {"number", "integer"}:
                changes[one.name] = "banana"
            elif one.type == "enum":
                changes[one.name] = "no-such-value"
    return changes if len(changes) == 2 else {}


def _listed(problem: str) -> set[str]:
    """Return the values that a message lists, such as `must be one of: a, b`."""
    listing = re.split(r"one of:?|[Ee]xpected", problem, maxsplit=1)[-1]
    listing = re.split(r"[Rr]eceived", listing)[0]
    return {word for word in re.split(r"[,|'\"\s]+", listing) if word}


def _form(path: str, texts: Mapping[str, str], headers: Mapping[str, str]) -> ProbeRequest:
    return ProbeRequest("POST", path, False, headers, texts)


def _alike(messages: tuple[str, ...], answer: ProbeAnswer) -> bool:
    """Whether text matches a template with blanks such as `<key>`."""
    parts = re.split(r"<\w+>|\(ID [\w-]+\)", "; ".join(messages))
    return len(parts) > 1 and all(part in "; ".join(answer.problems) for part in parts)
