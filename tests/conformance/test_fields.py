"""Every field of every operation of the facts, against the client's models and the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stable_async.api.base import ResultRequest
from stable_async.api.file_limits import ImageLimits
from tests.conformance.facts import FACTS_YAML, KEYS, checks, operations, smallest
from tests.conformance.harness import MODEL_CLASSES, MODELS, build
from tests.operations_table import operations_of

if TYPE_CHECKING:
    from tests.conformance.harness import Harness

SHARED_FACTS = Path(__file__).parents[3] / "shared" / "api" / "stability.yaml"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("operation", operations())
async def test_both_sides_take_and_refuse_what_the_facts_say(
    harness: Harness, operation: str
) -> None:
    await harness.taken(operation, {}, "the smallest request")
    for fact in operations()[operation]["fields"]:
        for check in checks(operation, fact):
            what = f"{check.name}: {check.what}"
            if check.mirror_only:
                await harness.mirror(operation, check.values, what)
            elif check.taken:
                await harness.taken(operation, check.values, what)
            else:
                # The client takes an id of any form: the generation may have been paid for.
                of_ours = check.name != "id"
                await harness.refused(
                    operation, check.values, check.name, check.what, client=of_ours
                )


@pytest.mark.parametrize("operation", operations())
def test_every_field_of_the_facts_has_checks_of_both_kinds(operation: str) -> None:
    for fact in operations()[operation]["fields"]:
        assert set(fact) <= KEYS, "a kind of limit that no check knows"
        kinds = {check.taken for check in checks(operation, fact)}
        assert kinds == {True, False}, fact["name"]


def test_every_operation_of_the_facts_has_a_model_and_no_model_another_one() -> None:
    assert set(MODELS) == set(operations())


@pytest.mark.parametrize("model", MODEL_CLASSES, ids=lambda model: model.__name__)
def test_what_is_posted_is_paid_for_and_the_rest_is_free(model: type[Any]) -> None:
    free = "look" if issubclass(model, ResultRequest) else "read"
    for operation in operations_of(model):
        assert model.asked == ("submit" if operation.method == "POST" else free)


@pytest.mark.parametrize("model", MODEL_CLASSES, ids=lambda model: model.__name__)
def test_a_model_has_the_fields_of_its_operations_and_no_other(model: type[Any]) -> None:
    facts = [operations()[operation.id] for operation in operations_of(model)]
    fields = {fact["name"]: fact for operation in facts for fact in operation["fields"]}
    own = {"paid"} if issubclass(model, ResultRequest) else set()
    assert set(model.model_fields) == set(fields) | own
    for name in set(fields) & set(model.model_fields):
        assert model.model_fields[name].is_required() == fields[name]["required"], name


@pytest.mark.parametrize("operation", operations())
def test_limits_of_images_are_those_of_the_facts_to_the_pixel(operation: str) -> None:
    # Beside the checks by images: not every number of pixels has two sides that fit.
    for fact in operations()[operation]["fields"]:
        if fact["type"] != "file" or "max_seconds" in fact:
            continue
        limits = MODELS[operation].file_parts[fact["name"]].image
        if "formats" not in fact:
            assert limits is None
            continue
        ratios = fact.get("aspect_ratio_range")
        assert limits == ImageLimits(
            min_side=fact["min_side"],
            max_side=fact.get("max_side"),
            min_pixels=fact.get("min_pixels", 1),
            max_pixels=fact.get("max_pixels"),
            aspect_ratio=(1 / 2.5, 2.5 / 1) if ratios == ["1:2.5", "2.5:1"] else ratios,
        )


@pytest.mark.parametrize("operation", operations())
def test_an_operation_is_what_the_facts_say(operation: str) -> None:
    fact = operations()[operation]
    request = build(operation, smallest(operation))
    ours = request.operation
    assert (ours.id, ours.path, ours.method) == (operation, fact["path"], fact["method"])
    assert ours.accept == tuple(fact["accept"])
    assert (ours.result is not None) == fact["async"]
    if ours.result is not None:
        assert ours.result.operation.path == fact["results"][0]  # type: ignore[attr-defined]
    if ours.method == "POST":
        assert ours.body == fact["body"]
    assert ours.organization == (fact["path"].startswith("/v1/") and operation != "v1_user_account")


@pytest.mark.skipif(not SHARED_FACTS.exists(), reason="only where the original is at hand")
def test_the_copy_of_the_facts_is_the_original() -> None:
    assert FACTS_YAML.read_bytes() == SHARED_FACTS.read_bytes()
