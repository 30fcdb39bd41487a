"""`python -m tests.sandbox.reference` writes the tables of docs/sandbox.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from stable_async.sandbox.edge import EDGE_FAULTS
from stable_async.sandbox.probing.claims import claims
from stable_async.sandbox.spec.evidence import load_evidence
from stable_async.sandbox.spec.facts import load_facts
from tests.sandbox.client_shapes import SHAPES

DOCUMENT = Path(__file__).parents[2] / "docs" / "sandbox.md"


def clients() -> str:
    """Return the table of the requests that public clients send."""
    rows = ["| client | particular | request | answer |", "|---|---|---|---|"]
    for shape in SHAPES:
        answer = f"{shape.status} `{shape.kind}`"
        if shape.keys:
            answer += f" with {', '.join(f'`{key}`' for key in shape.keys)}"
        rows.append(f"| {shape.client} | {shape.what} | `{shape.line}` | {answer} |")
    return "\n".join(rows)


def edge() -> str:
    """Return the table of edge faults."""
    rows = ["| kind | what a client sees | the API | charged |", "|---|---|---|---|"]
    for fault in EDGE_FAULTS.values():
        reached = "works" if fault.reached else "sees nothing"
        charged = "yes" if fault.reached else "no"
        if fault.page is not None and not fault.first_look:
            charged += f", unless `charged={not fault.reached}`"
        rows.append(f"| `{fault.name}` | {fault.about} | {reached} | {charged} |")
    return "\n".join(rows)


def facts() -> str:
    """Return how many facts are known in which way, and those that are not documented."""
    count = Counter(claim.known for claim in claims(load_facts()))
    evidence = load_evidence()
    sums = (
        f"The facts make {sum(count.values()):,} statements that an API could contradict: "
        f"{count['documented']:,} are documented, {count['seen']} were seen, and "
        f"{count['assumed']} are assumed."
    )
    lines = [
        sums,
        "",
        "| claim | known how |",
        "|---|---|",
    ]
    lines += [f"| `{mark.claim}` | seen on {mark.when} |" for mark in evidence.seen]
    lines += [f"| `{mark.claim}` | assumed: {mark.why} |" for mark in evidence.assumed]
    return "\n".join(lines)


BLOCKS = {"clients": clients, "edge": edge, "facts": facts}


def filled_in(text: str) -> str:
    """Return the page with its tables as they are now."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        block = f"{begin}\n{make()}\n{end}"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        text, found = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
        assert found == 1, name
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled_in(DOCUMENT.read_text()))
