"""The page about the sandbox says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields

from stable_async.sandbox import Sandbox, SandboxSettings
from tests.sandbox.reference import DOCUMENT, filled_in


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert filled_in(text) == text, "run: python -m tests.sandbox.reference"


def test_every_control_and_setting_is_on_the_page() -> None:
    text = DOCUMENT.read_text()
    methods = [name for name in vars(Sandbox) if not name.startswith("_")]
    for name in methods:
        assert re.search(rf"\b{name}\b", text), name
    for field in fields(SandboxSettings):
        assert re.search(rf"\b{field.name}\b", text), field.name
