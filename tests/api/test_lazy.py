"""Request models are loaded when they are asked for, and are all there when they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stable_async
from tests.operations_table import COROUTINES

PROGRAM = """
import sys
import stable_async
stable_async.StabilityClient
rooms = ("stable_async.groups.", "stable_async.api.")
print(*(name for name in sys.modules if name.startswith(rooms)))
stable_async.StabilityClient("sk-key").generate
assert "stable_async.groups.generate" in sys.modules
assert "stable_async.groups.edit" not in sys.modules
"""
OF_THE_CLIENT_ITSELF = {
    "stable_async.api.answers",
    "stable_async.api.base",
    "stable_async.api.base64_json",
    "stable_async.api.parsing",
    "stable_async.api.texts",
    "stable_async.api.verdict",
    "stable_async.api.envelope",
    "stable_async.api.file_limits",
    "stable_async.api.media_reader",
    "stable_async.api.media_types",
    "stable_async.api.file_input",
    "stable_async.api.pages",
    "stable_async.groups.base",
}


def test_importing_the_package_loads_no_request_model() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) <= OF_THE_CLIENT_ITSELF


@pytest.mark.parametrize("model", COROUTINES.values(), ids=lambda model: model.__name__)
def test_every_request_model_is_public(model: type[object]) -> None:
    assert model.__name__ in stable_async.__all__
    assert model.__name__ in dir(stable_async)
    assert getattr(stable_async, model.__name__) is model


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="GenerateVideo"):
        stable_async.GenerateVideo  # noqa: B018 - the access raises
