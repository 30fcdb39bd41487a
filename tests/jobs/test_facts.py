"""The facts of a row hold what was paid, in any order of events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.jobs import StorageError
from stable_async.jobs.row import ImageFacts, Result, Row
from stable_async.jobs.storage.facts import Charge, RowFacts, read_facts

IMAGE = ImageFacts(
    position=7,
    file_name="s3://b/0000/000007-x.png",
    content_type="image/png",
    bytes=3,
    sha256="00",
    width=1,
    height=None,
    seed=5,
    finish_reason="SUCCESS",
    request_id="caf\u00e9",
    credits=3.0,
    sent_at=None,
    finished_at=1.5,
)
ROW = Row(
    3, {"prompt": "\u2603"}, {"k": [1, None]}, "core", "x", b"\0\xff", 5, 3.0, 7, copy=2, remake=1
)
REFUSALS = [
    Result("failed", "returned", reason="400", error="no"),
    Result("again", "returned", reason="500", error="later"),
    Result("waiting", "returned"),
    Result("in doubt", "in doubt", reason="connection broke", error="cut"),
]
STEPS = st.lists(st.sampled_from(["claim", "accept", "made", "crash", *REFUSALS]), max_size=12)


@given(STEPS)
def test_no_order_of_events_loses_a_charge_or_leaves_one_open(steps: list[str | Result]) -> None:
    facts = RowFacts.claim(ROW, "token")
    has_image = False
    for step in steps:
        before = facts.charges
        if step == "claim":
            row = replace(ROW, attempts=len(before))
            facts, has_image = RowFacts.claim(row, "token", facts), False
            assert len(facts.charges) == len(before) + 1
        elif step == "accept":
            facts = facts.accepted("generation")
        elif step == "made":
            facts, has_image = facts.made(IMAGE), True
        elif step == "crash":
            facts = facts.resolved(has_image=has_image)
        elif isinstance(step, Result):
            facts = facts.settled(step)
        assert [charge.attempt for charge in facts.charges] == [*range(1, len(facts.charges) + 1)]
        for old, new in zip(before, facts.charges, strict=False):
            assert new.state == old.state or old.state in {"reserved", "in doubt"} or step == "made"
        assert read_facts(facts.to_json(), "x") == facts
    resolved = facts.resolved(has_image=has_image)
    assert resolved.state != "in flight"
    assert "reserved" not in {charge.state for charge in resolved.charges}
    assert resolved.resolved(has_image=has_image) == resolved
    if resolved.state in {"done", "filtered"}:
        assert has_image
        assert "spent" in {charge.state for charge in resolved.charges}


def test_a_claim_alone_is_in_doubt_and_a_refused_one_is_not() -> None:
    claim = RowFacts.claim(ROW, "token")
    assert claim.resolved(has_image=False).state == "in doubt"
    assert claim.settled(REFUSALS[1]).resolved(has_image=False).state == "again"
    assert claim.accepted("g").resolved(has_image=False).generation_id == "g"
    lost = claim.made(IMAGE).resolved(has_image=False)
    assert (lost.state, lost.image, lost.charges[-1].state) == ("in doubt", None, "spent")
    again = RowFacts.claim(replace(ROW, attempts=1), "token", claim)
    refused = again.settled(REFUSALS[1]).resolved(has_image=False)
    assert refused.state == "in doubt", "the first attempt may have been billed"


MADE = RowFacts.claim(ROW, "token").made(IMAGE).to_json().decode()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "s3://b/x.json is not readable"),
        (b"[]", "not readable"),
        (b'{"schema": 1, "id": 3}', "id: Input should be a valid string"),
        (json.dumps({"schema": 2}).encode(), "a newer stable-async .*upgrade"),
        (MADE.replace(IMAGE.file_name, "").encode(), "its image has no file"),
        (MADE.replace(IMAGE.sha256, "").encode(), "its image has no file"),
    ],
)
def test_what_are_no_facts_is_refused_by_name(data: bytes, match: str) -> None:
    with pytest.raises(StorageError, match=match):
        read_facts(data, "s3://b/x.json")


def states(facts: RowFacts) -> list[str]:
    return [charge.state for charge in facts.charges]


def test_a_claim_has_all_that_its_row_says() -> None:
    facts = RowFacts.claim(ROW, "token")
    assert facts == RowFacts(
        id="x",
        service="core",
        fields=ROW.fields,
        metadata=ROW.metadata,
        seed=5,
        price=3.0,
        position=7,
        number=3,
        content="00ff",
        copy=2,
        remake=1,
        state="in flight",
        charges=(Charge(1, 3.0, "reserved", None, "token"),),
    )
    assert (facts.token, facts.generation_id) == ("token", None)
    accepted = facts.accepted("g")
    assert (accepted.token, accepted.generation_id) == ("token", "g")
    assert states(accepted) == ["spent"]
    bare = RowFacts.of(ROW, "failed", [], "why", "in full")
    assert (bare.token, bare.generation_id, bare.reason, bare.error) == ("", None, "why", "in full")
    assert bare.settled(REFUSALS[1]).charges == ()
    assert bare.made(IMAGE).charges == ()


@pytest.mark.parametrize(("attempts", "number"), [(0, 3), (2, 3), (4, 5)])
def test_attempts_are_numbered_on(attempts: int, number: int) -> None:
    """A store that was lost knows fewer attempts than the ledger; an older ledger, than it."""
    before = RowFacts.claim(replace(ROW, attempts=1), "one").settled(REFUSALS[3])
    before = replace(before, charges=(Charge(1, 3.0, "returned"), *before.charges))
    after = RowFacts.claim(replace(ROW, attempts=attempts), "two", before)
    assert [charge.attempt for charge in after.charges] == [1, 2, number]
    assert states(after) == ["returned", "in doubt", "reserved"]
    assert (after.state, after.reason, after.error) == ("in flight", None, None)


@pytest.mark.parametrize("filtered", [False, True])
def test_an_image_proves_the_last_charge_alone(filtered: bool) -> None:
    image = replace(IMAGE, finish_reason="CONTENT_FILTERED") if filtered else IMAGE
    refused = RowFacts.claim(ROW, "one").settled(REFUSALS[1])
    doubtful = RowFacts.claim(replace(ROW, attempts=1), "two", refused).settled(REFUSALS[3])
    made = doubtful.made(image)
    assert (made.state, made.image) == ("filtered" if filtered else "done", image)
    assert states(made) == ["returned", "spent"]
    assert (made.reason, made.error) == (None, None)
    moved = made.moved("replaced/x.png")
    assert moved == replace(made, image=replace(image, file_name="replaced/x.png"))
    assert doubtful.moved("replaced/x.png") == doubtful


def test_an_answer_is_not_changed_by_a_later_one() -> None:
    accepted = RowFacts.claim(ROW, "token").accepted("g")
    failed = accepted.settled(REFUSALS[0])
    assert (failed.state, states(failed), failed.generation_id) == ("failed", ["spent"], "g")
    assert (failed.reason, failed.error) == ("400", "no")
    doubtful = RowFacts.claim(ROW, "token").settled(REFUSALS[3])
    assert states(doubtful.settled(REFUSALS[2])) == ["returned"], "a doubt is open"
    late = doubtful.accepted("g")
    assert (states(late), late.generation_id) == (["spent"], "g")


CLAIM = RowFacts.claim(ROW, "token")
ACCEPTED = CLAIM.accepted("g")
SECOND = RowFacts.claim(replace(ROW, attempts=1), "token", CLAIM.settled(REFUSALS[3]))


@pytest.mark.parametrize(
    ("facts", "state", "charges", "reason"),
    [
        (CLAIM, "in doubt", ["in doubt"], "in flight at the end"),
        (CLAIM.settled(REFUSALS[0]), "failed", ["returned"], "400"),
        (CLAIM.settled(REFUSALS[1]), "again", ["returned"], "500"),
        (CLAIM.settled(REFUSALS[2]), "waiting", ["returned"], None),
        (CLAIM.settled(REFUSALS[3]), "in doubt", ["in doubt"], "connection broke"),
        (ACCEPTED, "waiting", ["spent"], None),
        (ACCEPTED.settled(Result("waiting", "spent")), "waiting", ["spent"], None),
        (ACCEPTED.settled(REFUSALS[1]), "waiting", ["spent"], "500"),
        (ACCEPTED.settled(REFUSALS[0]), "failed", ["spent"], "400"),
        (CLAIM.made(IMAGE), "in doubt", ["spent"], "image lost"),
        # An earlier doubt outlives what only says that the last attempt was not billed.
        (SECOND.settled(REFUSALS[1]), "in doubt", ["in doubt", "returned"], "500"),
        (SECOND.settled(REFUSALS[2]), "in doubt", ["in doubt", "returned"], "in flight at the end"),
        (SECOND.settled(REFUSALS[0]), "failed", ["in doubt", "returned"], "400"),
        (SECOND, "in doubt", ["in doubt", "in doubt"], "in flight at the end"),
        (SECOND.accepted("g").settled(REFUSALS[2]), "waiting", ["in doubt", "spent"], None),
        (SECOND.accepted("g"), "waiting", ["in doubt", "spent"], None),
    ],
)
def test_how_facts_stand_when_nobody_works_on_a_row(
    facts: RowFacts, state: str, charges: list[str], reason: str | None
) -> None:
    resolved = facts.resolved(has_image=False)
    assert (resolved.state, states(resolved), resolved.reason) == (state, charges, reason)
    assert (resolved.error is None) == (reason is None)
    assert resolved.image is None
    if facts.image is None:
        assert facts.resolved(has_image=True) == resolved, "an image of which it knows nothing"
    else:
        assert facts.resolved(has_image=True) == facts


def test_an_image_that_is_there_completes_its_facts() -> None:
    facts = replace(CLAIM, image=IMAGE)
    assert facts.resolved(has_image=True) == CLAIM.made(IMAGE)


def test_facts_are_stored_with_their_version() -> None:
    data = json.loads(CLAIM.to_json())
    assert data["schema"] == 1
    assert CLAIM.to_json().endswith(b"}\n")
    del data["schema"]
    assert read_facts(json.dumps(data).encode(), "x") == CLAIM, "as older ones had none"
    assert read_facts(json.dumps(data | {"schema": 1}).encode(), "x") == CLAIM


def test_facts_without_more_are_those_of_a_row_in_flight() -> None:
    """As a maker writes them, outside of a job."""
    facts = read_facts(b'{"id": "x", "service": "core", "fields": {}}', "x")
    assert (facts.position, facts.number, facts.copy, facts.remake) == (0, 0, 1, 0)
    assert facts.state == "in flight"
