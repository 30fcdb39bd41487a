"""`stable-async doctor --probe`: the known facts of the API, compared with the API."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from stable_async.cli.connection import Connection
from stable_async.cli.exit_status import CANNOT_WORK, OK, SOME_FAILED, UsageError
from stable_async.cli.target import limited, open_sender, open_target
from stable_async.extras import install_command

if TYPE_CHECKING:
    from stable_async.sandbox.probing.findings import Finding

__all__ = ["probe"]


async def probe(connection: Connection, spend: float, *, as_json: bool) -> int:
    """Compare the facts with the API, print what was found, and return the exit status."""
    try:
        from stable_async.sandbox.probing.prober import Prober
        from stable_async.sandbox.spec.facts import load_facts
    except ModuleNotFoundError as error:
        raise UsageError(f"--probe needs {error.name}: {install_command('sandbox')}") from None

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{what:70}", end="", file=sys.stderr, flush=True)

    async with (
        open_target(connection) as target,
        limited(target, connection) as (limiter, _),
        open_sender(target, limiter) as send,
    ):
        prober = Prober(load_facts(), send, key=target.key, credits=spend, progress=progress)
        findings = await prober.run()
    progress("")
    verdicts = Counter(finding.verdict for finding in findings)
    summary = {
        "agree": verdicts["agrees"],
        "differ": verdicts["differs"],
        "undecided": verdicts["undecided"],
        "requests": prober.requests,
        "credits": prober.spent,
        "accepted": prober.accepted,
        "stopped": prober.stopped,
    }
    if as_json:
        print(json.dumps({**summary, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        _report(findings, summary)
    if verdicts["differs"] or prober.accepted:
        return SOME_FAILED
    return CANNOT_WORK if prober.stopped else OK


def _report(findings: list["Finding"], summary: dict[str, object]) -> None:
    for one in findings:
        if one.verdict == "differs":
            print(f"differs  {one.claim.id} ({one.claim.known}): {one.claim.states}")
            print(f"         {one.reason}; {one.answer}".rstrip("; "))
    why = Counter(one.reason for one in findings if one.verdict == "undecided")
    for reason, count in why.most_common():
        print(f"undecided {count:5}  {reason}")
    known = Counter(one.claim.known for one in findings)
    marks = ", ".join(f"{count:,} {mark}" for mark, count in sorted(known.items()))
    print(f"{len(findings):,} facts ({marks})")
    print(
        f"{summary['agree']:,} agree, {summary['differ']:,} differ, "
        f"{summary['undecided']:,} are undecided; {summary['requests']:,} requests, "
        f"{summary['credits']:g} credits"
    )
    for accepted in summary["accepted"]:  # type: ignore[attr-defined]
        print(f"accepted although invalid, and perhaps charged: {accepted}")
    if summary["stopped"]:
        print(summary["stopped"])
