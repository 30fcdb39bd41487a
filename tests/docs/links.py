"""`python -m tests.docs.links SITE`: every link inside the built site leads somewhere.

The build itself checks links between pages and their anchors; this finds links out of the pages'
folder, which work in the repository and not on the site, and pages that are not in the navigation.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.docs.blocks import ROOT


class Links(HTMLParser):
    """Collects the targets of links and images of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in {"href", "src"} and value:
                self.targets.add(value)


def broken(site: Path) -> list[str]:
    """Return `page: target` for each link that leads nowhere."""
    found = []
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # served at any address, so its links begin at the root
            continue
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            path = (page.parent / unquote(parts.path)).resolve()
            if not path.is_relative_to(site.resolve()) or not path.exists():
                found.append(f"{page.relative_to(site)}: {target}")
    return found


def unlisted() -> list[str]:
    """Return the pages that the navigation does not have."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    return [f"not in the navigation: {page}" for page in pages if f" {page}\n" not in navigation]


if __name__ == "__main__":
    problems = [*broken(Path(sys.argv[1])), *unlisted()]
    sys.exit("\n".join(problems) or 0)
