"""The finding for each claim, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stable_async.sandbox.probing.claims import Claim
    from stable_async.sandbox.probing.messages import ProbeAnswer

__all__ = ["PAID", "Finding", "Findings", "Verdict"]

Verdict: TypeAlias = Literal["agrees", "differs", "undecided"]

UNDECIDABLE = {
    "quota.requests": "showing it would breach the quota",
    "quota.penalty": "showing it would breach the quota",
    "results.retention": "takes 24 hours",
    "results.polling": "only polling too often shows it",
    "results.key": "needs a second key",
    "behaviours.all_problems_at_once": "the API looks at the key first",
}
PAID = "only a paid request shows it"
# Reasons by the end of a claim's id, or a part of it.
REASONS = (
    (re.compile(r"\.(submit_status|answer|output_px)$|\.credits|\.results\."), PAID),
    (re.compile(r"\.latency$"), "differs from day to day"),
    (re.compile(r"\.default$"), "only a result shows it"),
    (re.compile(r"\.required$"), "required by a rule: see the rule"),
    (re.compile(r"\.fields$"), "probes of v1 are invalid on purpose"),
    (re.compile(r"\.values\.only$"), "no refusal lists the values"),
    (re.compile(r"\.rules\."), "only a paid request shows it, or no answer does"),
    (re.compile(r"^errors\."), "cannot be provoked without content, cost or a breach"),
    (re.compile(r"\.dimensions$"), "only a paid request shows it"),
    (re.compile(r"\.max_request$"), "the request would be too large"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding about a claim.

    Attributes:
        claim: The claim.
        verdict: `agrees`, `differs` or `undecided`.
        reason: The reason, or what was tried.
        answer: The recorded answer that shows a difference, without keys.
    """

    claim: Claim
    verdict: Verdict
    reason: str = ""
    answer: str = ""


def _why(claim: Claim) -> str:
    """Return why there is no finding for a claim."""
    if claim.id in UNDECIDABLE:
        return UNDECIDABLE[claim.id]
    return next((why for form, why in REASONS if form.search(claim.id)), "no probe shows it")


class Findings:
    """Findings by the claim's id."""

    def __init__(self, claims: Iterable[Claim], key: str) -> None:
        """Take the claims, and the key that no finding may show."""
        self.claims: dict[str, Claim] = {claim.id: claim for claim in claims}
        self._key = key
        self._found: dict[str, Finding] = {}

    def note(
        self, name: str, verdict: Verdict, reason: str = "", answer: ProbeAnswer | None = None
    ) -> None:
        """Record a finding; a difference outweighs agreement, which outweighs doubt.

        Unknown claims are ignored.
        """
        claim = self.claims.get(name)
        if claim is None:
            return
        weight = {"undecided": 0, "agrees": 1, "differs": 2}
        before = self._found.get(name)
        if before is None or weight[verdict] > weight[before.verdict]:
            shown = "" if answer is None or verdict == "agrees" else answer.recorded(self._key)
            self._found[name] = Finding(claim, verdict, reason, shown)

    def judge(
        self, name: str, agrees: bool, reason: str, answer: ProbeAnswer | None = None
    ) -> None:
        """Record that an answer agrees with a claim, or differs."""
        self.note(name, "agrees" if agrees else "differs", reason, answer)

    def finding(self, claim: Claim, stopped: str) -> Finding:
        """Return the finding for a claim; `stopped` is the reason if probing ended early."""
        found = self._found.get(claim.id)
        return found or Finding(claim, "undecided", stopped or _why(claim))
