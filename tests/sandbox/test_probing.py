"""The facts held against a second sandbox, which deviates from them in fifty planted ways.

Every deviation must be found without cost, found for credits, or be reported as undecided; none
may be missed in silence, and none invented.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
import yaml

from stable_async.sandbox import Sandbox
from stable_async.sandbox.probing.claims import claims
from stable_async.sandbox.probing.prober import Prober
from stable_async.sandbox.probing.sender import Sender
from stable_async.sandbox.spec.evidence import load_evidence
from stable_async.sandbox.spec.facts import load_facts
from tests.conformance.facts import FACTS_YAML

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from stable_async.sandbox.probing.findings import Finding
    from stable_async.sandbox.probing.messages import ProbeAnswer, ProbeRequest
    from stable_async.sandbox.request_log import RequestRecord

KEY = "sk-of-the-test"
Raw = dict[str, Any]
Shows = float | Literal["free", "never"]


def plain(value: Any) -> Any:
    """Copy YAML data so that nothing in it is shared: its anchors make one object of many."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def raw_facts() -> Raw:
    found: Raw = plain(yaml.load(FACTS_YAML.read_bytes(), yaml.CSafeLoader))
    return found


def operation(raw: Raw, name: str) -> Raw:
    return next(one for one in raw["endpoints"] if one["id"] == name)


def field(raw: Raw, name: str, of: str) -> Raw:
    return next(one for one in operation(raw, name)["fields"] if one["name"] == of)


@dataclass(frozen=True)
class Deviation:
    """What is planted, and how it is to be reported.

    Attributes:
        claim: Id of the claim that is wrong then.
        plant: Changes the facts of the second sandbox.
        shows: At what price it shows: `free`, so many credits, or `never`.
    """

    claim: str
    plant: Callable[[Raw], object]
    shows: Shows = "free"

    @property
    def operation(self) -> str:
        name = self.claim.partition(".")[0]
        return name if name in {one.id for one in load_facts().operations} else ""


def limit(claim: str, value: object, *, key: str | None = None) -> Deviation:
    """Plant another value of a field's limit; the claim is `operation.field.limit`."""
    name, of, what = claim.split(".")[:3]
    return Deviation(claim, lambda raw: field(raw, name, of).update({key or what: value}))


def values(claim: str, change: Callable[[list[str]], object]) -> Deviation:
    name, of = claim.split(".")[:2]
    return Deviation(claim, lambda raw: change(field(raw, name, of)["values"]))


def no_rule(claim: str) -> Deviation:
    name, _, number = claim.split(".")
    # The sentence stays in its place, so that the others keep their numbers.
    return Deviation(
        claim, lambda raw: operation(raw, name)["rules"].__setitem__(int(number) - 1, "nothing")
    )


def of_operation(claim: str, key: str, value: object, shows: Shows = "free") -> Deviation:
    name = claim.partition(".")[0]
    return Deviation(claim, lambda raw: operation(raw, name).update({key: value}), shows)


def error(claim: str, **changes: object) -> Deviation:
    status, api, name = claim.split(".")[1:4]
    return Deviation(
        claim,
        lambda raw: next(
            one for one in raw["errors"][int(status)] if (one["api"], one["name"]) == (api, name)
        ).update(changes),
    )


def new_field(raw: Raw) -> None:
    operation(raw, "generate_core")["fields"].append(
        {"name": "license", "type": "string", "required": True}
    )


RELIGHT = "edit_replace_background_and_relight"
AUDIO = "stable_audio_2_text_to_audio"
DEVIATIONS = [
    limit("generate_core.seed.max", 4294967295),
    limit("generate_core.seed.min", 1),
    limit("generate_core.prompt.max_length", 5000),
    limit("generate_core.prompt.min_length", 0),
    limit("generate_core.prompt.required", False),
    limit("generate_core.output_format.required", True),
    values("generate_core.aspect_ratio.values.21:9", lambda known: known.remove("21:9")),
    values("generate_core.style_preset.values.only", lambda known: known.append("cubism")),
    Deviation("generate_core.fields", new_field),
    of_operation("generate_core.path", "path", "/v2beta/stable-image/generate/core2"),
    of_operation("generate_core.accept.application/json", "accept", ["image/*"]),
    of_operation("generate_core.accept", "accept", ["image/*", "application/json", "text/plain"]),
    values("generate_sd3.model.values.only", lambda known: known.append("sd4")),
    limit("generate_sd3.cfg_scale.max.sd3.5-large", 20, key="max"),
    no_rule("generate_sd3.rules.4"),
    no_rule("generate_sd3.rules.3"),
    no_rule("generate_ultra.rules.1"),
    limit("generate_ultra.image.min_side", 128),
    limit("generate_ultra.image.max_side", 8192),
    limit("upscale_fast.image.max_pixels", 2097152),
    limit("upscale_conservative.image.aspect_ratio", ["1:2", "2:1"], key="aspect_ratio_range"),
    limit("upscale_conservative.creativity.min", 0.1),
    limit("upscale_creative.prompt.required", False),
    limit("edit_erase.image.formats.webp", ["jpeg", "png"], key="formats"),
    limit("edit_erase.grow_mask.max", 100),
    no_rule("edit_outpaint.rules.1"),
    limit("edit_outpaint.left.max", 4000),
    limit("edit_search_and_replace.search_prompt.required", False),
    values("edit_remove_background.output_format.values.only", lambda known: known.append("jpeg")),
    no_rule(f"{RELIGHT}.rules.2"),
    values(f"{RELIGHT}.keep_original_background.values.true", lambda known: known.remove("true")),
    limit("control_sketch.control_strength.max", 2),
    limit("control_style_transfer.change_strength.min", 0),
    limit("stable_fast_3d.vertex_count.min", 0),
    values("stable_fast_3d.texture_resolution.values.2048", lambda known: known.remove("2048")),
    Deviation(
        f"{AUDIO}.steps.min.stable-audio-2",
        lambda raw: field(raw, AUDIO, "steps")["per_model"]["stable-audio-2"].update(min=10),
    ),
    limit(f"{AUDIO}.duration.max", 300),
    limit("stable_audio_2_audio_to_audio.audio.min_seconds", 3),
    limit("stable_audio_2_audio_to_audio.audio.max_seconds", 100),
    limit("v1_text_to_image.cfg_scale.max", 30),
    values("v1_text_to_image.sampler.values.DDIM", lambda known: known.remove("DDIM")),
    limit("v1_image_to_image.steps.min", 1),
    error("errors.404.v2.generation_not_found", name="gone"),
    error("errors.401.v2.unauthorized", errors=["authorization: no"]),
    error("errors.413.v2.payload_too_large", errors=["too large"]),
    Deviation(
        "max_request", lambda raw: raw["meta"]["max_request"]["default"].update(bytes=20 << 20)
    ),
    Deviation(
        "headers.stability-client-id.max_length",
        lambda raw: raw["meta"]["request_headers"][3].update(max_length=64),
    ),
    of_operation("generate_core.credits", "credits", 4, 4),
    of_operation(f"{RELIGHT}.submit_status", "submit_status", 202, 8),
    Deviation(
        "generate_core.output_format.default",
        lambda raw: field(raw, "generate_core", "output_format").update(default="webp"),
        3,
    ),
    Deviation("engines.stable-diffusion-v1-6", lambda raw: raw["v1_engines"].pop(3), "never"),
    Deviation(
        "generate_sd3.credits.sd3.5-large",
        lambda raw: operation(raw, "generate_sd3")["credits"].update({"sd3.5-large": 7}),
        "never",
    ),
    Deviation(
        "engines.stable-diffusion-768-v2-1.dimensions",
        lambda raw: raw["v1_engines"][4]["dimensions"].update(min_pixels=262144),
        "never",
    ),
]


@asynccontextmanager
async def second(facts: Path | None) -> AsyncIterator[tuple[Sandbox, Sender]]:
    """A second sandbox, and what sends to it."""

    async def at_once() -> None:
        return

    async with (
        Sandbox(counting="off", facts=None if facts is None else str(facts)) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        yield sandbox, Sender(session, sandbox.url, KEY, at_once)


def differing(findings: list[Finding]) -> set[str]:
    return {finding.claim.id for finding in findings if finding.verdict == "differs"}


def test_fifty_deviations_are_planted() -> None:
    assert len(DEVIATIONS) >= 50
    known = {claim.id for claim in claims(load_facts())}
    assert {deviation.claim for deviation in DEVIATIONS} <= known


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation.claim)
async def test_a_planted_deviation_is_found_or_reported_as_undecided(
    deviation: Deviation, tmp_path: Path
) -> None:
    raw = raw_facts()
    deviation.plant(raw)
    path = tmp_path / "facts.yaml"
    path.write_text(json.dumps(raw))
    async with second(path) as (sandbox, send):
        asked = frozenset({deviation.operation})
        for spend in (0.0,) if isinstance(deviation.shows, str) else (0.0, deviation.shows):
            prober = Prober(load_facts(), send, key=KEY, credits=spend, operations=asked)
            findings = {finding.claim.id: finding for finding in await prober.run()}
            found = findings[deviation.claim]
            if deviation.shows == "free" or spend:
                assert found.verdict == "differs", found
                assert found.reason
            else:
                assert found.verdict == "undecided", found
                assert found.reason
            # Some facts are stated twice, as a limit and in a rule's words.
            others = differing([*findings.values()]) - {deviation.claim}
            near = {deviation.claim.rpartition(".")[0], deviation.operation}
            assert all(
                ".rules." in other
                or other.startswith(deviation.claim)
                or other.rpartition(".")[0] in near
                or other.split(".")[:2] == deviation.claim.split(".")[:2]
                for other in others
            ), others
            if not spend:
                assert sandbox.charges().requests == 0
                assert prober.accepted == []
            sandbox.reset()


async def test_nothing_is_found_where_there_is_nothing() -> None:
    async with second(None) as (sandbox, send):
        prober = Prober(load_facts(), send, key=KEY)
        findings = await prober.run()
        assert differing(findings) == set()
        assert sandbox.charges().requests == 0
        assert prober.accepted == []
        assert len(findings) == len(claims(load_facts()))
        assert sum(finding.verdict == "agrees" for finding in findings) > 1_500
        assert all(finding.reason for finding in findings)
        assert sandbox.statistics.requests == prober.requests < 2_500


async def test_what_is_paid_for_stays_within_the_credits() -> None:
    async with second(None) as (sandbox, send):
        prober = Prober(load_facts(), send, key=KEY, credits=12)
        findings = await prober.run()
        assert differing(findings) == set()
        assert 0 < sandbox.charges().credits == prober.spent <= 12
        paid = [finding for finding in findings if finding.claim.id.endswith(".answer")]
        assert sum(finding.verdict == "agrees" for finding in paid) >= 3


async def test_a_purchase_whose_answer_is_lost_counts_as_spent() -> None:
    async with second(None) as (sandbox, send):
        asked = frozenset({"generate_core"})
        prober = Prober(load_facts(), send, key=KEY, credits=5, operations=asked)
        when = {"authorization": f"Bearer {KEY}"}
        sandbox.edge("bad_gateway", operation="generate_core", headers=when)
        await prober.run()
        assert prober.spent == sandbox.charges().credits == 3


async def test_where_the_key_comes_first_probes_are_broken_twice_and_cost_nothing() -> None:
    def keyless(record: RequestRecord) -> bool:
        return record.key == "" and record.path.startswith("/v2")

    async with second(None) as (sandbox, send):
        body = {"errors": ["authorization: no"], "id": "x", "name": "unauthorized"}
        sandbox.respond(None, 401, body=body, times=None, when=keyless)
        prober = Prober(load_facts(), send, key=KEY, operations=frozenset({"generate_core", ""}))
        findings = {finding.claim.id: finding for finding in await prober.run()}
        assert findings["behaviours.parameters_before_key"].verdict == "differs"
        assert findings["generate_core.seed.max"].verdict == "agrees"
        assert findings["generate_core.aspect_ratio.values.16:9"].verdict == "agrees"
        assert sandbox.charges().requests == 0


async def test_an_api_that_names_one_problem_leaves_broken_probes_undecided() -> None:
    async with second(None) as (sandbox, send):
        keyless = {"errors": ["authorization: no"], "id": "x", "name": "unauthorized"}
        one = {"errors": ["prompt: required"], "id": "x", "name": "bad_request"}
        sandbox.respond(None, 401, body=keyless, times=None, when=lambda record: record.key == "")
        sandbox.respond("generate_core", 400, body=one, times=None)
        prober = Prober(load_facts(), send, key=KEY, operations=frozenset({"generate_core"}))
        findings = {finding.claim.id: finding for finding in await prober.run()}
        assert findings["generate_core.seed.max"].verdict == "undecided"
        assert "one problem at a time" in findings["generate_core.seed.max"].reason
        assert findings["generate_core.prompt.required"].verdict == "agrees"


async def test_an_acceptance_is_counted_and_ends_the_operation() -> None:
    def broken(record: RequestRecord) -> bool:
        return record.key != "" and record.operation.startswith("v1_text")

    async with second(None) as (sandbox, send):
        sandbox.respond(None, 200, body=b"made", times=None, when=broken)
        asked = frozenset({"v1_text_to_image"})
        prober = Prober(load_facts(), send, key=KEY, operations=asked)
        findings = await prober.run()
        assert len(prober.accepted) == 1
        assert prober.requests <= 3
        assert all(f.verdict == "undecided" for f in findings if "cfg_scale" in f.claim.id)


@pytest.mark.parametrize("status", [429, 402])
async def test_a_breach_or_an_empty_account_ends_everything(status: int) -> None:
    async with second(None) as (sandbox, send):
        sandbox.fail_next(status, times=1_000)
        prober = Prober(load_facts(), send, key=KEY)
        findings = await prober.run()
        assert prober.requests == 1
        assert prober.stopped
        assert {finding.verdict for finding in findings} == {"undecided"}


async def test_a_firewall_is_not_the_api() -> None:
    async with second(None) as (sandbox, send):
        sandbox.edge("firewall", rate=1, seconds=3600)
        prober = Prober(load_facts(), send, key=KEY)
        findings = await prober.run()
        assert differing(findings) == set()


async def test_answers_are_recorded_without_the_key(tmp_path: Path) -> None:
    raw = raw_facts()
    raw["errors"][401][2]["message"] = "Go away"
    path = tmp_path / "facts.yaml"
    path.write_text(json.dumps(raw))
    async with second(path) as (sandbox, send):
        sandbox.respond("v1_user_balance", 401, body=f'{{"id":"1","name":"x","message":"{KEY}"}}')
        findings = await Prober(load_facts(), send, key=KEY, operations=frozenset({""})).run()
        assert KEY not in repr(findings)
        assert "sk-invalid" not in repr(findings)


def test_every_mark_of_evidence_marks_a_claim() -> None:
    from fnmatch import fnmatchcase

    evidence = load_evidence()
    known = [claim.id for claim in claims(load_facts())]
    for form in [mark.claim for mark in evidence.assumed] + [mark.claim for mark in evidence.seen]:
        assert any(fnmatchcase(claim, form) for claim in known), form


async def test_no_request_with_the_key_is_broken_only_once() -> None:
    """Every keyed POST lacks a required field or an engine, and has an impossible value besides."""
    keyed: list[ProbeRequest] = []

    async with second(None) as (sandbox, send):
        keyless = {"errors": ["authorization: no"], "id": "x", "name": "unauthorized"}

        async def watch(request: ProbeRequest) -> ProbeAnswer:
            if request.keyed and request.method == "POST":
                keyed.append(request)
            return await send(request)

        for key_first in (False, True):
            if key_first:
                sandbox.respond(
                    None, 401, body=keyless, times=None, when=lambda record: record.key == ""
                )
            await Prober(load_facts(), watch, key=KEY).run()
    assert len(keyed) > 1_000
    for request in keyed:
        values = {**request.texts, **(request.json or {})}
        impossible = sum(value in ("banana", "no-such-value") for value in values.values())
        known = load_facts().operations
        operation = next(one for one in known if one.pattern().fullmatch(request.path))
        required = {one.name for one in operation.fields if one.required and one.place == "body"}
        sent = {name.partition("[")[0] for name in [*values, *request.files]}
        assert impossible + len(required - sent) >= 2, request
