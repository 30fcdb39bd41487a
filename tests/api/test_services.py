"""The registry of services is complete, and names coroutines and models that belong together."""

from __future__ import annotations

from typing import Any

import pytest

from stable_async import Image, StabilityClient
from stable_async.api.base import MediaRequest, ResultRequest
from stable_async.api.services import IMAGE_SERVICES, SERVICES, Service, service_name
from tests.operations_table import COROUTINES


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda service: service.name)
def test_a_service_names_the_coroutine_of_its_model(service: Service) -> None:
    group, name = service.coroutine.split(".")
    assert callable(getattr(getattr(StabilityClient("sk-key"), group), name))
    assert COROUTINES[service.coroutine] is (service.several or service.model)
    assert service_name(service.name.upper().replace("-", "_")) == service.name


def test_every_operation_that_makes_media_is_a_service() -> None:
    making = {
        path
        for path, model in COROUTINES.items()
        if issubclass(model, MediaRequest) and not issubclass(model, ResultRequest)
    }
    making |= {"v1.text_to_image", "v1.image_to_image", "v1.masking"}
    assert {service.coroutine for service in SERVICES.values()} == making


@pytest.mark.parametrize("service", [one for one in SERVICES.values() if one.several])
def test_a_request_for_one_image_is_that_for_several_with_other_prompts(service: Service) -> None:
    assert service.several is not None
    fields = set(service.several.model_fields) | {"prompt", "negative_prompt"}
    assert set(service.model.model_fields) == fields
    models: list[Any] = [service.model, service.several]
    assert len({one.operation.path for one in models}) == 1


def test_image_services_are_those_that_make_images() -> None:
    assert {service.media for service in IMAGE_SERVICES.values()} == {Image}
    assert "text-to-audio" not in IMAGE_SERVICES
    assert [name for name, one in IMAGE_SERVICES.items() if one.takes_text_alone] == [
        "core",
        "ultra",
        "sd3",
        "v1-text-to-image",
    ]
    assert [name for name, one in IMAGE_SERVICES.items() if one.asynchronous] == [
        "replace-background-and-relight",
        "upscale-creative",
    ]
