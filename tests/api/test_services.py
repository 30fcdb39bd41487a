"""The registry of services is complete, and names coroutines and models that belong together."""

from __future__ import annotations

import pytest

from stable_async import Image, StabilityClient
from stable_async.api.base import MediaRequest, ResultRequest
from stable_async.api.services import IMAGE_SERVICES, SERVICES, Service, service_name
from tests.operations_table import COROUTINES


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda service: service.name)
def test_a_service_names_the_coroutine_of_its_model(service: Service) -> None:
    group, name = service.coroutine.split(".")
    assert callable(getattr(getattr(StabilityClient("sk-key"), group), name))
    assert COROUTINES[service.coroutine] is service.model
    assert service_name(service.name.upper().replace("-", "_")) == service.name


def test_every_operation_that_makes_media_is_a_service() -> None:
    making = {
        path
        for path, model in COROUTINES.items()
        if issubclass(model, MediaRequest) and not issubclass(model, ResultRequest)
    }
    assert {service.coroutine for service in SERVICES.values()} == making


def test_image_services_are_those_that_make_images() -> None:
    assert {service.media for service in IMAGE_SERVICES.values()} == {Image}
    assert "text-to-audio" not in IMAGE_SERVICES
    assert [name for name, one in IMAGE_SERVICES.items() if one.takes_text_alone] == [
        "core",
        "ultra",
        "sd3",
    ]
    assert [name for name, one in IMAGE_SERVICES.items() if one.asynchronous] == [
        "replace-background-and-relight",
        "upscale-creative",
    ]
