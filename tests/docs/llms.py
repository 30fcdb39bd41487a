"""`python -m tests.docs.llms` writes docs/llms.txt: the pages in plain text, for language models.

The format is that of https://llmstxt.org: a title, a summary, and lists of links.
"""

from __future__ import annotations

from typing import Any, cast

import yaml

from tests.docs.blocks import ROOT

DOCUMENT = ROOT / "docs" / "llms.txt"


def llms() -> str:
    """Return the document."""
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    lines = [f"# {configuration['site_name']}", "", f"> {configuration['site_description']}", ""]
    for entry in cast("list[dict[str, Any]]", configuration["nav"]):
        for title, pages in entry.items():
            if isinstance(pages, str):
                lines.append(f"- [{title}]({pages})")
                continue
            links = [f"- [{name}]({path})" for page in pages for name, path in page.items()]
            lines += ["", f"## {title}", "", *links]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(llms(), encoding="utf-8")
