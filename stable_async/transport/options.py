"""The options of one call: their types, and the one place that checks them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Protocol, TypedDict, TypeVar

from stable_async.arguments import (
    UnfitError,
    at_least,
    choice,
    flag,
    or_none,
    seconds,
    unknown_word,
    with_methods,
)
from stable_async.config import Timeouts
from stable_async.errors import APIStatusError, FieldProblem, InvalidRequestError
from stable_async.wording import as_given

if TYPE_CHECKING:
    from stable_async.quota import Priority

__all__ = [
    "AttemptObserver",
    "CallOptions",
    "Options",
    "ResponseHead",
    "checked_option",
    "read_options",
]

T = TypeVar("T")
ResultT = TypeVar("ResultT")


class AttemptObserver(Protocol):
    """Notified of each attempt to send one request."""

    async def leaving(self) -> None:
        """Called when an attempt has its permit, before it is sent; an error raised here stops
        it.
        """

    def refused(self, error: APIStatusError) -> None:
        """Called when an attempt was answered with an error, before another one is made."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of a response, as received.

    Attributes:
        status: HTTP status.
        headers: The headers; names are looked up without regard to case.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)


class CallOptions(TypedDict, Generic[ResultT], total=False):
    """How one call is made; not sent to the API.

    Attributes:
        timeout: Time limits of one attempt: `Timeouts`, or the total in seconds; `None` means no
            limit. The wait for the quota is not part of it.
        max_retries: How many times a 429 or 500 is retried: 0 means one attempt.
        deadline: Seconds from now within which the request must leave, else `QuotaTimeoutError`.
            The wait for the quota is part of it.
        priority: `interactive` (the default) leaves before `bulk`, which still gets its share.
        tenant: Requests of one priority take turns by tenant: text, or an int.
        extra_headers: Headers to send besides the client's own.
        raise_on_filtered: Make a filtered result a `ContentFilteredError`.
        on_response: Called with status and headers of each response, refusals included.
        observer: Notified of each attempt. An error that its `leaving` raises propagates, and
            nothing is sent.
        on_disconnect: What happens to a call that is cancelled after its request was sent, and may
            be billed: `cut` (the default) closes the connection, `finish` fetches the result.
            A request that was not sent is withdrawn in any case, and nothing is paid.
        on_finished: Receives the result then; required with `finish`. `aclose` waits for it.
    """

    timeout: Timeouts | float | None
    max_retries: int
    deadline: float | None
    priority: Priority
    tenant: str | int | None
    extra_headers: Mapping[str, str] | None
    raise_on_filtered: bool
    on_response: Callable[[ResponseHead], object] | None
    observer: AttemptObserver | None
    on_disconnect: Literal["cut", "finish"]
    on_finished: Callable[[ResultT], Awaitable[None]] | None


class Options(NamedTuple):
    """The options of one call, checked; see `CallOptions`. A named tuple is cheap to copy.

    Attributes:
        timeouts: Time limits of one attempt.
        attempts: Maximum attempts; `None` leaves it to the client's `RetryPolicy`.
        priority: `None` leaves it to the client, and to `map`.
    """

    timeouts: Timeouts = Timeouts()
    attempts: int | None = None
    deadline: float | None = None
    priority: Priority | None = None
    tenant: str | None = None
    extra_headers: Mapping[str, str] | None = None
    raise_on_filtered: bool = False
    on_response: Callable[[ResponseHead], object] | None = None
    observer: AttemptObserver | None = None
    on_disconnect: Literal["cut", "finish"] = "cut"
    on_finished: Callable[[object], Awaitable[None]] | None = None

    @property
    def keep(self) -> Callable[[object], Awaitable[None]] | None:
        """The receiver of the result of a cancelled call; `None` cuts the call."""
        return self.on_finished if self.on_disconnect == "finish" else None

    def for_polling(self) -> Options:
        """Return the options for polling a generation.

        The submission has been sent, so that neither its observer nor its deadline applies. Polls
        are not retried: the next poll is the retry.
        """
        return self._replace(observer=None, deadline=None, attempts=1)


# RFC 9110, sections 5.1 and 5.5: names are tokens; values have no control characters.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Set by the client: who pays, the destination, the form of body and response.
_OWN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
    }
)


def _tenant(value: object) -> str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise UnfitError("text, or a whole number")


def _headers(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise UnfitError("a mapping of header names to text")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UnfitError("header names of letters, digits and hyphens")
        if name.lower() in _OWN_HEADERS:
            raise UnfitError(f"headers other than those that the client sets, such as {name}")
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise UnfitError(f"for {name}, Latin-1 text without control characters")
    return dict(value)


def _callback(value: object) -> object:
    if callable(value):
        return value
    raise UnfitError("a function")


def _attempts(value: object) -> int:
    return at_least(0)(value) + 1


# By the name of the option: the attribute of `Options`, and the rule for its value.
_RULES: dict[str, tuple[str, Callable[[object], object]]] = {
    "timeout": ("timeouts", Timeouts.of),
    "max_retries": ("attempts", _attempts),
    "deadline": ("deadline", or_none(seconds)),
    "priority": ("priority", choice("interactive", "bulk")),
    "tenant": ("tenant", or_none(_tenant)),
    "extra_headers": ("extra_headers", or_none(_headers)),
    "raise_on_filtered": ("raise_on_filtered", flag),
    "on_response": ("on_response", or_none(_callback)),
    "observer": ("observer", or_none(with_methods(AttemptObserver))),
    "on_disconnect": ("on_disconnect", choice("cut", "finish")),
    "on_finished": ("on_finished", or_none(_callback)),
}


def read_options(
    owner: str,
    given: CallOptions[ResultT],
    defaults: Options,
    fields: Collection[str] = (),
) -> Options:
    """Return the options of one call, checked.

    Args:
        owner: What takes the options, for the error: the class of the request, or a method.
        given: The options that the caller passed.
        defaults: The options that hold otherwise.
        fields: Other names that the caller could have meant.

    Raises:
        InvalidRequestError: A name is unknown, or a value has the wrong type; every problem is
            listed.
    """
    if not given:
        return defaults
    problems = []
    values: dict[str, object] = {}
    for word, value in given.items():
        if word not in _RULES:
            known = [*fields, *_RULES]
            problems.append(FieldProblem(word, unknown_word(word, known), ", ".join(known)))
            continue
        attribute, rule = _RULES[word]
        try:
            values[attribute] = rule(value)
        except UnfitError as error:
            problems.append(FieldProblem(word, _shown(value), str(error)))
    options = defaults if problems else defaults._replace(**values)  # type: ignore[arg-type]
    if options.on_disconnect == "finish" and options.on_finished is None:
        allowed = "a function that receives the result, as on_disconnect='finish' requires"
        problems.append(FieldProblem("on_finished", "not given", allowed))
    if problems:
        raise InvalidRequestError(owner, problems)
    return options


def checked_option(owner: str, name: str, value: object, rule: Callable[[object], T]) -> T:
    """Return the value of an option as `rule` returns it; `owner` takes the option.

    Raises:
        InvalidRequestError: It breaks the rule.
    """
    try:
        return rule(value)
    except UnfitError as error:
        problem = FieldProblem(name, _shown(value), str(error))
        raise InvalidRequestError(owner, [problem]) from None


def _shown(value: object) -> str:
    """Describe a value without quoting what is long or may be private."""
    if isinstance(value, int | float | None) or (isinstance(value, str) and len(value) <= 20):
        return f"given {as_given(value)}"
    return f"given a value of type {type(value).__name__}"
