"""What requests cost, and what the facts say of all of them."""

from __future__ import annotations

import pytest

from stable_async import ConfigurationError, Quota, StabilityClient
from stable_async.api.base import MAX_REQUEST_BYTES
from tests.conformance.facts import facts, operations, smallest
from tests.conformance.harness import build

FORMULAS = {
    "17 + 0.06 * steps (20 at the default 50, 23 at 100)": {
        None: 20,
        30: 18.8,
        50: 20,
        77: 21.62,
        100: 23,
    }
}


@pytest.mark.parametrize("operation", operations())
def test_credits_are_those_of_the_price_list(operation: str) -> None:
    listed = operations()[operation]["credits"]
    if not isinstance(listed, dict):
        assert build(operation, smallest(operation)).credits == listed
        return
    for model, price in listed.items():
        values = smallest(operation) | {"model": model}
        steps = FORMULAS[price] if isinstance(price, str) else {None: price}
        for number, price_then in steps.items():
            assert (
                build(operation, values | {"steps": number} if number else values).credits
                == price_then
            )


@pytest.mark.parametrize("operation", ["generate_sd3", "stable_audio_2_text_to_audio"])
def test_without_a_model_the_price_is_that_of_the_default(operation: str) -> None:
    fields = {fact["name"]: fact for fact in operations()[operation]["fields"]}
    values = smallest(operation)
    default = values | {"model": fields["model"]["default"]}
    assert build(operation, values).credits == build(operation, default).credits


def test_the_limits_of_all_requests_are_those_of_the_facts() -> None:
    meta = facts()["meta"]
    assert meta["max_request"]["default"]["bytes"] == MAX_REQUEST_BYTES
    limit, quota = meta["rate_limit"], Quota()
    assert (quota.requests, quota.window) == (limit["requests"], limit["window_s"])
    assert quota.penalty == limit["timeout_s"]


HEADERS = {
    "stability-client-id": "client_id",
    "stability-client-user-id": "client_user_id",
    "stability-client-version": "client_version",
}


def test_identification_has_the_lengths_of_the_facts() -> None:
    limits = {
        header["name"]: header["max_length"]
        for header in facts()["meta"]["request_headers"]
        if "max_length" in header
    }
    assert set(limits) == set(HEADERS)
    for header, length in limits.items():
        StabilityClient("sk-key", **{HEADERS[header]: "x" * length})
        with pytest.raises(ConfigurationError, match=HEADERS[header]):
            StabilityClient("sk-key", **{HEADERS[header]: "x" * (length + 1)})
