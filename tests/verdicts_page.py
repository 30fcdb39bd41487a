"""docs/verdicts.md, made from the table in the code: `python -m tests.verdicts_page` writes it."""

from __future__ import annotations

from pathlib import Path

from stable_async.api.verdict import (
    RULES,
    Rule,
    judge_broken_connection,
    judge_failed,
    judge_unreadable,
)

PAGE = Path(__file__).parent.parent / "docs" / "verdicts.md"

INTRODUCTION = """\
# Verdicts

Between the client and the API stand CDNs, firewalls, proxies and mirrors. What each answer means
is decided in one place, `stable_async/api/verdict.py`; this page is made from it. The errors
carry the verdict: `error.verdict`, and parts of it as `error.from_api`, `error.concerns` and
`error.maybe_billed`.

- **From the API** is what carries its error envelope: JSON with `id`, `name` and `errors`
  (v2beta) or `message` (v1). Anything else comes from an intermediary, which knows nothing about
  the request or the account.
- **The name in the envelope takes precedence over the status.** The first matching rule applies.
- **Only 429 and 500 are retried**, by `RetryPolicy`; a 500 whatever its body, since failed
  generations are not charged.
- **A penalty** delays all requests with this key, for the `Retry-After` of the answer (at least a
  second, at most an hour), else for the 60 seconds that are documented.
- **job** is what a job does. `final`: the row is refused for good. `again`: the row waits for a
  later run. `stop`: the job stops, and no row is final. `pause`: nothing new is sent for a while,
  then one request probes. `doubt`: the row may have been billed, and is sent again only with
  `--resend-doubtful`; several in a row cause a pause as well.
"""

KEPT = """\
A result that has arrived complete is accepted even if its response ends badly. PNG, JPEG, WebP,
WAV and GLB mark their own end, and so does JSON: a missing last chunk, a broken connection or an
expired time limit after the last byte loses neither an image nor the id of a generation. The first
bytes take precedence over `Content-Type` and `Content-Encoding`.
"""

LOOKS = """\
## Polling a running generation

A poll is free and is not retried: the next poll, `poll_interval` later, is the retry. The
generation was paid for when it was submitted, and its id is never forgotten.

- After any answer that is not from the API, whatever its status, the client polls again: `billed`
  is `yes`, `job` is `look`. The same holds for a broken connection, a page with status 200, and a
  429 or 5xx of the API itself.
- Only an error of the API about the request (`final` above), or the finish reason `ERROR` or
  `CONTENT_FILTERED` without a result, ends the generation; then `billed` is `maybe`. An error of
  the API about the account (`stop` above) ends the polling at once.
- After `result_timeout` (1,800 s) the polling ends with `APITimeoutError`, which carries
  `generation_id`. `stable-async results get ID -o FILE` and `client.results.get(id)` fetch the
  result later.

## Free requests

Reading the balance, the account or the engines is never billed; where a submission would be in
doubt, `job` is `again`.
"""


def page() -> str:
    """Return the whole page."""
    parts = [
        INTRODUCTION,
        "## The API's own errors\n",
        table([rule for rule in RULES if rule.from_api], api=True),
        "## Answers of intermediaries\n",
        table([rule for rule in RULES if not rule.from_api], api=False),
        "## Incomplete answers, and successes without a result\n",
        others(),
        KEPT,
        LOOKS,
    ]
    return "\n".join(parts)


def table(rules: list[Rule], *, api: bool) -> str:
    """Return the rules as a table in Markdown."""
    names = "name has | " if api else ""
    lines = [
        f"| {names}status | error | billed | concerns | penalty | job | why |",
        f"|{'---|' * (8 if api else 7)}",
    ]
    for rule in rules:
        words = ", ".join(f"`{word}`" for word in rule.words) or "any other"
        cells = [
            *([words] if api else []),
            rule.title,
            f"`{rule.error.__name__}`",
            rule.billed,
            rule.concerns,
            "yes" if rule.penalty else "",
            f"`{rule.job}`",
            rule.why,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def others() -> str:
    """Return the verdicts on what has no status of an error."""
    rows = [
        ("no connection", judge_broken_connection(sent=False, asked="submit")),
        (
            "no connection, since a proxy requires a login (407)",
            judge_broken_connection(sent=False, asked="submit", proxy_status=407),
        ),
        (
            "the connection broke, or a time limit expired, after the request was sent",
            judge_broken_connection(sent=True, asked="submit"),
        ),
        ("2xx without a result's first bytes", judge_unreadable(None, "submit")),
        ("2xx with the finish reason `ERROR`, as v1 has it", judge_failed("submit")),
        ("2xx with `CONTENT_FILTERED` and no result", judge_failed("submit")),
    ]
    lines = ["| what | billed | concerns | job |", "|---|---|---|---|"]
    for what, verdict in rows:
        assert verdict is not None, what
        lines.append(f"| {what} | {verdict.billed} | {verdict.concerns} | `{verdict.job}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
