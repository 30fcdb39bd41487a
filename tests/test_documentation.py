"""What the pages say is true: the README's example runs, links lead somewhere, words stay ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


async def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"<!-- example: client -->\n```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    make: Callable[[list[str]], Awaitable[None]] = names["make"]  # type: ignore[assignment]
    monkeypatch.chdir(tmp_path)
    async with Sandbox(latency=0.0) as sandbox:
        monkeypatch.setenv("STABILITY_API_KEY", "sk-readme")
        monkeypatch.setenv("STABILITY_BASE_URL", sandbox.url)
        await make(["a fox", "an owl"])
        assert len(sandbox.log) == 4
    for name in ("lighthouse.png", "streamed.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
