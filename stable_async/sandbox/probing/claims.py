"""The claims in the facts, one statement each, with ids that probes and evidence use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.sandbox.spec.evidence import load_evidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.sandbox.spec.evidence import Known
    from stable_async.sandbox.spec.facts import Facts, Field, Operation

__all__ = ["Claim", "claims", "field_claims", "rule_claim"]

BEHAVIOURS = {
    "parameters_before_key": "v2: bad parameters and a bad key are a 400 with all problems",
    "all_problems_at_once": "v2: a 400 lists every problem",
    "ignored_part": "the empty part called none is ignored",
    "unknown_v1_path": "v1: an unknown path without a key is a 401",
}
UNBROKEN = {
    "quota.requests": "150 requests in 10 s",
    "quota.penalty": "a breach refuses the key for 60 s",
    "results.retention": "results are kept for 24 h",
    "results.polling": "polls are 10 s apart",
    "results.key": "a result is fetched with the key that submitted it",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of the facts.

    Attributes:
        id: Such as `generate_core.seed.max`.
        states: The statement in words.
        operation: Id of the operation; empty if it concerns none.
        known: How it is known.
    """

    id: str
    states: str
    operation: str
    known: Known


def claims(facts: Facts) -> list[Claim]:
    """Return every statement that an API could contradict."""
    evidence = load_evidence()
    found: dict[str, tuple[str, str]] = {}
    for operation in facts.operations:
        for name, states in _operation_claims(operation):
            found[f"{operation.id}.{name}"] = (states, operation.id)
    found |= {f"behaviours.{name}": (states, "") for name, states in BEHAVIOURS.items()}
    found |= {name: (states, "") for name, states in UNBROKEN.items()}
    for api, envelope in facts.error_envelopes.items():
        found[f"envelopes.{api}"] = (f"error bodies have {', '.join(envelope.required)}", "")
    for status, errors in facts.errors.items():
        for number, error in enumerate(errors):
            place = f"errors.{status}.{error.api}.{error.name}"
            place += f".{number}" if place in found else ""
            found[place] = ("; ".join(error.messages) or f"{status} is called {error.name}", "")
    for header in facts.meta.request_headers:
        if header.max_length is not None:
            states = f"at most {header.max_length} characters"
            found[f"headers.{header.name}.max_length"] = (states, "")
    found["max_request"] = (f"requests have at most {facts.max_request()} bytes", "")
    for engine in facts.v1_engines:
        found[f"engines.{engine.id}"] = ("is an engine of v1", "")
        if engine.use != "masking":
            found[f"engines.{engine.id}.dimensions"] = ("makes these sizes", "")
    for removed in facts.removed:
        for path in removed.paths:
            found[f"removed.{path}"] = ("is not a path", "")
    return [
        Claim(name, states, operation, evidence.known(name))
        for name, (states, operation) in found.items()
    ]


def rule_claim(operation: Operation, sentence: str) -> str:
    """Return the id of a rule, without the operation's."""
    return f"rules.{operation.rules.index(sentence) + 1}"


def _operation_claims(operation: Operation) -> Iterator[tuple[str, str]]:
    yield "path", f"{operation.method} {operation.path}"
    if operation.method == "POST":
        yield "fields", "no other field is required"
    yield from _accept_claims(operation)
    for field in operation.fields:
        if field.place == "body":
            for name, states in field_claims(field):
                yield f"{field.name}.{name}", states
    for sentence in operation.rules:
        yield rule_claim(operation, sentence), sentence
    yield from _work_claims(operation)


def _accept_claims(operation: Operation) -> Iterator[tuple[str, str]]:
    for value in operation.accept:
        yield f"accept.{value}", f"accept may be {value}"
    if operation.accept and "*/*" not in operation.accept and operation.method == "POST":
        yield "accept", f"accept is one of {', '.join(operation.accept)}"


def _work_claims(operation: Operation) -> Iterator[tuple[str, str]]:
    """Return the claims about the work itself: price, answer, results, size, time."""
    if isinstance(operation.credits, dict):
        for model, price in operation.credits.items():
            yield f"credits.{model}", f"{model} costs {price} credits"
    else:
        yield "credits", f"costs {operation.credits} credits"
    if operation.method == "POST":
        yield "submit_status", f"answers {operation.submit_status}"
        yield "answer", "answers with the declared content types, headers and keys"
    for path in operation.results:
        yield f"results.{path}", f"the result is found at {path}"
    if operation.observed.output_px:
        yield "output_px", f"makes {operation.observed.output_px}"
    if operation.observed.latency_s is not None:
        yield "latency", f"takes {operation.observed.latency_s:g} s"
    if any("request at most" in sentence for sentence in operation.rules):
        yield "max_request", "takes requests of so many bytes"


def field_claims(field: Field) -> Iterator[tuple[str, str]]:
    """Return the claims about a field, by the name of the limit."""
    yield "required", "is required" if field.required else "is optional"
    if field.default is not None:
        yield "default", f"is {field.default!r} when it is absent"
    for name, value in (
        ("min_length", field.min_length or None),
        ("max_length", field.max_length),
        ("max_side", field.max_side),
        ("min_side", field.min_side if field.min_side > 1 else None),
        ("max_pixels", field.max_pixels),
        ("aspect_ratio", field.aspect_range),
        ("min_seconds", field.min_seconds or None),
        ("max_seconds", field.max_seconds),
    ):
        if value is not None:
            yield name, f"{name.replace('_', ' ')} {value}"
    for model in field.per_model or [""]:
        limits = field.for_model(model)
        where = f".{model}" if model else ""
        if limits.minimum is not None:
            yield f"min{where}", f"is at least {limits.minimum}"
        if limits.maximum is not None:
            yield f"max{where}", f"is at most {limits.maximum}"
    if field.type in {"number", "integer", "object"}:
        yield "type", f"is of type {field.type}"
    for choice in field.values:
        yield f"values.{choice}", f"may be {choice}"
    if field.values:
        yield "values", "refuses any other value"
        yield "values.only", f"has the values {', '.join(field.values)} and no other"
    for fmt in field.formats:
        yield f"formats.{fmt}", f"may be {fmt}"
    if field.formats:
        yield "formats", f"is one of {', '.join(field.formats)}"
