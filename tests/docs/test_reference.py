"""Every public name has its place in the reference."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from tests.docs.blocks import ROOT
from tests.docs.llms import DOCUMENT, llms

MODULES = (
    "stable_async",
    "stable_async.datasets",
    "stable_async.integrations.opentelemetry",
    "stable_async.integrations.starlette",
    "stable_async.jobs",
    "stable_async.jobs.maker",
    "stable_async.quota",
    "stable_async.report",
    "stable_async.sandbox",
    "stable_async.web",
)
# Names of the package that a room offers as well.
REPEATED = {"stable_async.quota.Quota", "stable_async.quota.SharedQuota"}
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SHOWN = re.findall(r"^::: (\S+)", "\n".join(page.read_text() for page in PAGES), flags=re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    names = {f"{module}.{name}" for name in import_module(module).__all__}
    assert names - set(SHOWN) - REPEATED - {f"{module}.__version__"} == set()


# Ray is not installed for these tests; the site does not build without the names.
@pytest.mark.parametrize("name", [name for name in SHOWN if ".ray." not in name])
def test_every_name_in_the_reference_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute)


def test_the_reference_shows_each_name_once() -> None:
    assert len(SHOWN) == len(set(SHOWN))


def test_the_list_for_language_models_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == llms(), "run `python -m tests.docs.llms`"
