"""Findings that cost credits: one purchase of each operation, the cheapest first."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from stable_async.sandbox.probing.messages import ProbeRequest
from stable_async.sandbox.probing.requests import request_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stable_async.sandbox.probing.findings import Findings
    from stable_async.sandbox.probing.messages import ProbeAnswer
    from stable_async.sandbox.probing.requests import Value
    from stable_async.sandbox.spec.facts import Operation

__all__ = ["Purchases"]


class Purchases:
    """Buys results within a number of credits, and compares them with the facts."""

    def __init__(
        self,
        findings: Findings,
        send: Callable[[ProbeRequest], Awaitable[ProbeAnswer]],
        credits: float,  # noqa: A002 - the API's word
        progress: Callable[[str], None],
    ) -> None:
        """Take the notes, the sender, and the maximum credits to spend."""
        self._findings = findings
        self._send = send
        self._left = credits
        self._progress = progress
        self.spent: float = 0.0

    async def run(self, operations: Iterable[Operation]) -> None:
        """Buy one result of each operation, the cheapest first, within the credits."""
        priced = sorted(
            (
                (_least_price(operation), operation)
                for operation in operations
                if operation.method == "POST"
            ),
            key=lambda entry: entry[0],
        )
        for cost, operation in priced:
            if 0 < cost <= self._left:
                self._progress(f"{operation.id}, for {cost:g} credits")
                await self._buy(operation, cost)

    async def _buy(self, operation: Operation, cost: float) -> None:
        values: dict[str, Value] = {}
        model = _cheapest_model(operation)
        if model:
            values["model"] = model
        ratio = operation.observed.ratio
        if ratio and any(field.name == "aspect_ratio" for field in operation.fields):
            values["aspect_ratio"] = ratio
        before = await self._balance()
        answer = await self._send(request_for(operation, values, keyed=True))
        if not answer.from_api:
            # It may have been paid for nevertheless.
            self._spend(cost)
            return
        if answer.status >= 300:
            reason = f"the smallest request: {answer.status}"
            self._findings.note(f"{operation.id}.fields", "differs", reason, answer)
            return
        self._spend(cost)
        after = await self._balance()
        self._judge_price(operation, model, cost, before, after)
        place = f"{operation.id}.submit_status"
        self._findings.judge(
            place, answer.status == operation.submit_status, f"{answer.status}", answer
        )
        self._judge_answer(operation, answer)
        self._judge_size(operation, answer)
        if operation.submits and "id" in answer.content:
            for path in operation.results:
                await self._judge_result(operation, path, str(answer.content["id"]))

    def _spend(self, cost: float) -> None:
        self._left -= cost
        self.spent += cost

    async def _balance(self) -> float | None:
        answer = await self._send(ProbeRequest("GET", "/v1/user/balance", keyed=True))
        credits_left = answer.content.get("credits")
        return credits_left if isinstance(credits_left, int | float) else None

    def _judge_price(
        self,
        operation: Operation,
        model: str,
        cost: float,
        before: float | None,
        after: float | None,
    ) -> None:
        place = f"{operation.id}.credits" + (f".{model}" if model else "")
        if before is None or after is None or before == after:
            self._findings.note(place, "undecided", "the balance did not move yet")
            return
        paid = round(before - after, 4)
        self._spend(max(0.0, paid - cost))
        self._findings.judge(place, abs(paid - cost) < 0.005, f"the balance fell by {paid:g}")

    def _judge_answer(self, operation: Operation, answer: ProbeAnswer) -> None:
        declared = operation.responses.get(answer.status)
        if declared is None:
            return
        kind = answer.headers.get("content-type", "")
        wrong = []
        if declared.content_types and kind not in declared.content_types:
            wrong.append(f"content type {kind}")
        is_json = kind.partition(";")[0] == "application/json"
        if is_json:
            missing = [key for key in declared.json_required if key not in answer.content]
            wrong += [f"no key {key}" for key in missing]
        elif operation.accept:
            absent = {"seed", "finish-reason"} & {h.lower() for h in declared.headers}
            wrong += [f"no header {name}" for name in sorted(absent - answer.headers.keys())]
        if any(one.name == "output_format" for one in operation.fields) and not operation.submits:
            default = str(operation.field("output_format").default)
            made = {"mpeg": "mp3"}.get(kind.partition("/")[2], kind.partition("/")[2])
            self._findings.judge(f"{operation.id}.output_format.default", made == default, kind)
        self._findings.judge(f"{operation.id}.answer", not wrong, ", ".join(wrong), answer)

    def _judge_size(self, operation: Operation, answer: ProbeAnswer) -> None:
        seen = operation.observed.output_px
        from_text = not any(field.type == "file" and field.required for field in operation.fields)
        if seen is None or not from_text or operation.submits:
            return
        try:
            width, height = Image.open(io.BytesIO(answer.body)).size
        except OSError:
            return
        self._findings.judge(
            f"{operation.id}.output_px", f"{width}x{height}" == seen, f"{width}x{height}"
        )

    async def _judge_result(self, operation: Operation, path: str, generation: str) -> None:
        request = ProbeRequest("GET", path.replace("{id}", generation), keyed=True)
        answer = await self._send(request)
        good = answer.status in {200, 202}
        self._findings.judge(f"{operation.id}.results.{path}", good, f"{answer.status}", answer)


def _cheapest_model(operation: Operation) -> str:
    if not isinstance(operation.credits, dict):
        return ""
    fields = {field.name: field for field in operation.fields}
    offered = fields["model"].values if "model" in fields else ()
    priced = [
        (price, model)
        for model, price in operation.credits.items()
        if isinstance(price, int | float) and model in offered
    ]
    return min(priced)[1] if priced else ""


def _least_price(operation: Operation) -> float:
    listed = operation.credits
    if isinstance(listed, dict):
        model = _cheapest_model(operation)
        price = listed.get(model)
        return price if isinstance(price, int | float) else 0
    return listed or 0
