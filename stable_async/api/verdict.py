"""What an answer means: who answered, was it billed, what does it concern, may it be tried again.

The only place that decides any of this. Client, polling, jobs, web layer, telemetry and commands
read the verdict that each error carries. docs/verdicts.md is the whole table, made from this code.

Between the client and the API stand CDNs, firewalls, proxies and mirrors. What carries the API's
error envelope comes from the API; anything else comes from an intermediary, which knows nothing
about the request or the account. The name in an envelope takes precedence over the status.

Pure: status and envelope in, a verdict out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from stable_async.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ContentModerationError,
    NotFoundError,
    PayloadTooLargeError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnprocessableError,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from stable_async.api.envelope import Envelope

__all__ = [
    "FAILED_REASON",
    "RULES",
    "Asked",
    "Rule",
    "Verdict",
    "judge",
    "judge_broken_connection",
    "judge_failed",
    "judge_unreadable",
    "rule_of",
]

Asked = Literal["submit", "look", "read"]
"""What was asked: `submit` makes something and costs; `look` asks for the result of a generation
that was submitted before; `read` asks for something that is free, such as the balance."""

# The only statuses that are retried. A 500 is, whatever its body: it says that the generation
# failed, and failed generations "are not charged" (OpenAPI document of api.stability.ai, read
# 2026-09-22). A 429 is unless it says that the balance is gone.
FAILED = 500
TOO_MANY_REQUESTS = 429
PROXY_LOGIN = 407
# The finish reason of v1 for a generation that failed. Whether it is charged is not documented, and
# an image that comes with it is not the one that was asked for (OpenAPI document of
# api.stability.ai, read 2026-09-22).
FAILED_REASON = "ERROR"

_ANY = range(1000)  # more digits are not a status


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the table: the answers it matches, and the verdict on a submission.

    Attributes:
        from_api: Whether it matches the API's envelopes, or everything else.
        words: Matches envelopes whose name contains one of these; empty matches any name.
        statuses: Matches these statuses.
        title: The statuses in words.
        error: The class of error.
        billed, concerns, penalty, job: As in `Verdict`.
        why: The reason, for the table.
    """

    from_api: bool
    words: tuple[str, ...] = ()
    statuses: Collection[int] = field(repr=False)
    title: str
    error: type[APIStatusError]
    billed: Literal["no", "maybe"]
    concerns: Literal["request", "account", "service", "network"]
    penalty: bool
    job: Literal["final", "again", "stop", "pause", "doubt"]
    why: str

    def fits(self, status: int, envelope: Envelope | None) -> bool:
        """Return whether this rule matches such an answer."""
        name = "" if envelope is None else _letters(envelope.name)
        return (
            (envelope is not None) is self.from_api
            and status in self.statuses
            and (not self.words or any(_letters(word) in name for word in self.words))
        )

    def verdict(self, status: int) -> Verdict:
        """Return the verdict on a submission that was answered with `status`."""
        return Verdict(
            from_api=self.from_api,
            billed=self.billed,
            concerns=self.concerns,
            retry=status == FAILED or (status == TOO_MANY_REQUESTS and self.penalty),
            penalty=self.penalty,
            job=self.job,
        )


def _rule(
    concerns: Literal["request", "account", "service", "network"],
    job: Literal["final", "again", "stop", "pause", "doubt"],
    error: type[APIStatusError],
    *words: str,
    status: int | Collection[int] = _ANY,
    title: str = "",
    billed: Literal["no", "maybe"] = "no",
    penalty: bool = False,
    why: str = "",
) -> Rule:
    statuses = (status,) if isinstance(status, int) else status
    named = "any" if statuses is _ANY else ", ".join(map(str, statuses))
    return Rule(
        from_api=concerns != "network",  # an intermediary knows nothing of the rest
        words=words,
        statuses=statuses,
        title=title or named,
        error=error,
        billed=billed,
        concerns=concerns,
        penalty=penalty,
        job=job,
        why=why,
    )


RULES: tuple[Rule, ...] = (
    # The API's envelope, by the name in it.
    _rule(
        "request", "final", ContentModerationError, "moderation", "content_policy", "flagged",
        why="refused, and not charged",
    ),
    _rule(
        "request", "final", UnprocessableError, "invalid_language", "public_figure", "copyright",
        why="refused for its content, and not charged",
    ),
    _rule(
        "account", "stop", PaymentRequiredError,
        "balance", "credit", "payment", "billing", "funds",
        why="no credits are left; a 429 or 403 that says so is not a penalty",
    ),
    _rule(
        "account", "stop", AuthenticationError, "unauthorized", "unauthenticated", "api_key",
        why="the key is wrong or missing",
    ),
    _rule(
        "account", "again", RateLimitError, "rate_limit", "too_many_requests",
        penalty=True, why="the quota was exceeded: all requests with this key wait",
    ),
    _rule(
        "account", "stop", PermissionDeniedError,
        "permission", "forbidden", "suspend", "disabled", "banned", "account",
        why="the account is suspended, or may not use this operation",
    ),
    _rule(
        "service", "doubt", ServerError, "timeout", "timed_out",
        status=range(501, 600), title="501 to 599", billed="maybe",
        why="the API stopped waiting for work that may have continued",
    ),
    _rule(
        "service", "again", ServerError, "internal_error", "server_error", "unavailable",
        "overloaded", "maintenance", "timeout", "timed_out",
        why="the API failed; failed generations are not charged",
    ),
    _rule("request", "final", NotFoundError, "not_found", why="no such generation, engine or path"),
    _rule(
        "request", "final", PayloadTooLargeError, "payload_too_large",
        why="larger than the API accepts",
    ),
    # The API's envelope with a name that is not known, by the status.
    _rule("request", "final", BadRequestError, status=400),
    _rule("account", "stop", AuthenticationError, status=401),
    _rule("account", "stop", PaymentRequiredError, status=402),
    _rule("account", "stop", PermissionDeniedError, status=403),
    _rule("request", "final", NotFoundError, status=404),
    _rule("service", "again", APIStatusError, status=408,
        why="the request did not arrive complete"),
    _rule("request", "final", PayloadTooLargeError, status=413),
    _rule("request", "final", UnprocessableError, status=422),
    _rule("service", "again", APIStatusError, status=425, why="the request was not processed"),
    _rule("account", "again", RateLimitError, status=429, penalty=True),
    _rule("request", "final", APIStatusError, status=range(400, 500), title="other 4xx"),
    _rule("service", "again", ServerError, status=500),
    _rule(
        "service", "doubt", ServerError, status=504, billed="maybe",
        why="the API stopped waiting for work that may have continued",
    ),
    _rule(
        "service", "again", ServerError, status=range(501, 600), title="other 5xx",
        why="the API failed; failed generations are not charged",
    ),
    _rule(
        "service", "doubt", APIStatusError, title="anything else", billed="maybe",
        why="not the status of an error",
    ),
    # No envelope of the API: an intermediary, by the status.
    _rule(
        "network", "stop", APIStatusError, status=range(300, 400), title="3xx",
        why="never followed, since the key would go to another host",
    ),
    _rule(
        "network", "stop", AuthenticationError, status=401,
        why="an intermediary requires its own login",
    ),
    _rule(
        "network", "stop", PaymentRequiredError, status=402,
        why="an intermediary requires payment",
    ),
    _rule(
        "network", "pause", PermissionDeniedError, status=403,
        why="a firewall blocked the request",
    ),
    _rule(
        "network", "pause", NotFoundError, status=404,
        why="a wrong prefix in the base URL, or an origin that is being replaced",
    ),
    _rule(
        "network", "stop", APIStatusError, status=407,
        why="the proxy requires a user name and a password",
    ),
    _rule(
        "network", "again", PayloadTooLargeError, status=413,
        why="a proxy has a smaller limit than the API; another row may be smaller",
    ),
    _rule(
        "network", "pause", RateLimitError, status=429, penalty=True,
        why="a CDN limits requests too: treated as the API's own penalty",
    ),
    _rule("network", "stop", APIStatusError, status=451, why="blocked for legal reasons"),
    _rule(
        "network", "doubt", APIStatusError, status=(460, 499), billed="maybe",
        why="a load balancer saw its client disconnect; the API may have continued",
    ),
    _rule(
        "network", "pause", BadRequestError, status=400,
        why="a proxy does not accept the request",
    ),
    _rule(
        "network", "pause", UnprocessableError, status=422,
        why="a proxy does not accept the request",
    ),
    _rule(
        "network", "pause", APIStatusError, status=range(400, 500), title="other 4xx",
        why="refused by an intermediary",
    ),
    _rule(
        "network", "pause", ServerError, status=500,
        why="failed generations are not charged, even if an intermediary reports the failure",
    ),
    _rule("network", "pause", ServerError, status=511, why="a captive portal requires a login"),
    _rule(
        "network", "pause", ServerError, status=(521, 523, 525, 526, 530),
        why="by the CDN's own definition the origin was not reached",
    ),
    _rule(
        "network", "doubt", ServerError, status=range(501, 600), title="other 5xx", billed="maybe",
        why="an intermediary gave up on a request that the API may have accepted; "
        "several in a row: pause",
    ),
    _rule(
        "network", "doubt", APIStatusError, title="anything else", billed="maybe",
        why="1xx, or 600 and above: not defined",
    ),
)  # fmt: skip
"""The whole table. The first rule that matches applies."""


def rule_of(status: int, envelope: Envelope | None) -> Rule:
    """Return the rule for an answer that is not a success."""
    return next(rule for rule in RULES if rule.fits(status, envelope))


def judge(status: int, envelope: Envelope | None, asked: Asked) -> Verdict:
    """Return the verdict on an answer with an error status.

    Args:
        status: The HTTP status.
        envelope: The API's envelope in the body; `None` where there is none.
        asked: What was asked.
    """
    return _for(asked, rule_of(status, envelope).verdict(status))


def judge_unreadable(envelope: Envelope | None, asked: Asked) -> Verdict:
    """Return the verdict on a success without a result: an error page, or an incomplete JSON text.

    Args:
        envelope: The API's envelope in the body; `None` where there is none.
        asked: What was asked.
    """
    if envelope is not None and asked == "look":
        return judge(400, envelope, asked)
    return _for(
        asked,
        Verdict(
            from_api=envelope is not None,
            billed="maybe",
            concerns="network" if envelope is None else "service",
            job="doubt",
        ),
    )


def judge_failed(asked: Asked) -> Verdict:
    """Return the verdict on a success that says that its generation ended without a result.

    Its finish reason is `FAILED_REASON`, whether bytes came with it or not; or it was filtered, and
    no bytes came.
    """
    job: Literal["final", "doubt"] = "final" if asked == "look" else "doubt"
    return _for(asked, Verdict(from_api=True, billed="maybe", concerns="service", job=job))


def judge_broken_connection(
    *, sent: bool, asked: Asked, proxy_status: int | None = None
) -> Verdict:
    """Return the verdict on a request that got no complete answer.

    Args:
        sent: Whether the request may have reached the server.
        asked: What was asked.
        proxy_status: The status with which a proxy refused to connect, if one did.
    """
    if sent:
        verdict = Verdict(from_api=False, billed="maybe", concerns="network", job="doubt")
    elif proxy_status == PROXY_LOGIN:
        verdict = Verdict(from_api=False, billed="no", concerns="network", job="stop")
    else:
        verdict = Verdict(from_api=False, billed="no", concerns="network", job="pause")
    return _for(asked, verdict)


def _for(asked: Asked, verdict: Verdict) -> Verdict:
    """Return the verdict on any kind of request, derived from that on a submission."""
    if asked == "submit":
        return verdict
    if asked == "read":
        job = "again" if verdict.job == "doubt" else verdict.job
        return replace(verdict, billed="no", job=job)
    # Polls are free, and a loop of their own repeats them. Only the API itself can end a
    # generation. It was accepted, and so paid, unless the API says that it failed.
    ends = verdict.from_api and verdict.job in {"final", "stop"}
    return replace(
        verdict,
        billed="maybe" if ends and verdict.job == "final" else "yes",
        retry=False,
        job=verdict.job if ends else "look",
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
