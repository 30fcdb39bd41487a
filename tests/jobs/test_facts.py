"""The facts of a row hold what was paid, in any order of events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.jobs import StorageError
from stable_async.jobs.row import ImageFacts, Result, Row
from stable_async.jobs.storage.facts import RowFacts, read_facts

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
            facts = facts.standing(has_image=has_image)
        elif isinstance(step, Result):
            facts = facts.settled(step)
        assert [charge.attempt for charge in facts.charges] == [*range(1, len(facts.charges) + 1)]
        for old, new in zip(before, facts.charges, strict=False):
            assert new.state == old.state or old.state in {"reserved", "in doubt"} or step == "made"
        assert read_facts(facts.to_json(), "x") == facts
    standing = facts.standing(has_image=has_image)
    assert standing.state != "in flight"
    assert "reserved" not in {charge.state for charge in standing.charges}
    assert standing.standing(has_image=has_image) == standing
    if standing.state in {"done", "filtered"}:
        assert has_image
        assert "spent" in {charge.state for charge in standing.charges}


def test_a_claim_alone_is_in_doubt_and_a_refused_one_is_not() -> None:
    claim = RowFacts.claim(ROW, "token")
    assert claim.standing(has_image=False).state == "in doubt"
    assert claim.settled(REFUSALS[1]).standing(has_image=False).state == "again"
    assert claim.accepted("g").standing(has_image=False).generation_id == "g"
    lost = claim.made(IMAGE).standing(has_image=False)
    assert (lost.state, lost.image, lost.charges[-1].state) == ("in doubt", None, "spent")
    again = RowFacts.claim(replace(ROW, attempts=1), "token", claim)
    refused = again.settled(REFUSALS[1]).standing(has_image=False)
    assert refused.state == "in doubt", "the first attempt may have been billed"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "s3://b/x.json is not readable"),
        (b"[]", "not readable"),
        (b'{"schema": 1, "id": 3}', "id: Input should be a valid string"),
        (json.dumps({"schema": 2}).encode(), "a newer stable-async .*upgrade"),
    ],
)
def test_what_are_no_facts_is_refused_by_name(data: bytes, match: str) -> None:
    with pytest.raises(StorageError, match=match):
        read_facts(data, "s3://b/x.json")
