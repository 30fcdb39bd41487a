"""The errors of this package; no other library's error comes out of it.

    StabilityError
    ├── ConfigurationError
    ├── InvalidRequestError
    ├── WrongEventLoopError
    ├── QuotaTimeoutError
    ├── BudgetExceededError
    ├── APIStatusError
    │   ├── BadRequestError
    │   ├── AuthenticationError
    │   ├── PaymentRequiredError
    │   ├── ContentModerationError
    │   ├── PermissionDeniedError
    │   ├── NotFoundError
    │   ├── PayloadTooLargeError
    │   ├── UnprocessableError
    │   ├── RateLimitError
    │   └── ServerError
    ├── APIConnectionError
    │   └── APITimeoutError
    ├── InvalidResponseError
    └── ContentFilteredError

What to do next: correct the setting or the request after `ConfigurationError` and
`InvalidRequestError`; wait after `QuotaTimeoutError`. `APIStatusError`, `APIConnectionError` and
`InvalidResponseError` carry a `Verdict`: whether the API itself has answered (`from_api`), what the
error is about (`concerns`), and whether it may have cost something (`maybe_billed`).

No error message contains the key, a prompt or an image. Errors survive pickling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigurationError",
    "ContentFilteredError",
    "ContentModerationError",
    "FieldProblem",
    "InvalidRequestError",
    "InvalidResponseError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "QuotaTimeoutError",
    "RateLimitError",
    "ServerError",
    "StabilityError",
    "UnprocessableError",
    "Verdict",
    "WrongEventLoopError",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a failed answer, or the lack of one, means. Made by `stable_async.api.verdict` alone.

    Attributes:
        from_api: Whether the API itself has answered, in its error envelope. Otherwise an
            intermediary has, such as a CDN, a firewall or a proxy, or nothing.
        billed: Whether it cost something. `yes` means that a generation was submitted and paid for,
            and that its result can still be fetched.
        concerns: What it is about: the `request`, the `account`, the `service` that failed, or the
            `network` between here and there.
        retry: Whether the client sends the request again: only after a 429 or a 500.
        penalty: Whether everybody with this key has to wait, as after breaching the quota.
        job: What a job does. `final`: this row is refused for good. `again`: the row waits for a
            later run. `stop`: the job stops, and no row is final. `pause`: nothing new is sent for
            a while. `look`: the job polls for the result again. `doubt`: the row may have been
            billed, and is not sent again unless the user says so. `keep`: a success.
    """

    from_api: bool
    billed: Literal["no", "maybe", "yes"]
    concerns: Literal["request", "account", "service", "network"]
    retry: bool = False
    penalty: bool = False
    job: Literal["final", "again", "stop", "pause", "look", "doubt", "keep"]


def _rebuild(
    cls: type[StabilityError], args: tuple[object, ...], state: dict[str, object]
) -> StabilityError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class StabilityError(Exception):
    """Root of every error of this package.

    Attributes:
        generation_id: The generation whose result the call waited for: it was submitted and paid
            for, and can still be fetched with `client.results.get`. `None` for everything else.
    """

    generation_id: str | None = None

    def attach_generation(self, generation_id: str) -> None:
        """Record that this happened while waiting for the result of `generation_id`."""
        if self.generation_id is None:
            self.generation_id = generation_id

    @property
    def text(self) -> str:
        """What has happened, on one line, without the generation's id."""
        return super().__str__()

    def __str__(self) -> str:
        """Return what has happened, with the id of the generation concerned."""
        if self.generation_id is None:
            return self.text
        shown = "".join(one if one.isprintable() else "?" for one in self.generation_id)
        return f"{self.text} (generation {shown}, which was paid for)"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes, not by a call of the subclass's own signature."""
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(StabilityError):
    """A setting is missing or invalid: the key, the base URL, a `Quota` value."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field of a request.

    Attributes:
        field: The API's name of the field; empty for the request as a whole.
        given: The value, shortened; text and files are described, not quoted.
        allowed: What the field takes.
    """

    field: str
    given: str
    allowed: str

    def __str__(self) -> str:
        """Return `field: given ...; allowed: ...`."""
        prefix = f"{self.field}: " if self.field else ""
        given = f"{self.given}; " if self.given else ""
        return f"{prefix}{given}allowed: {self.allowed}"


class InvalidRequestError(StabilityError):
    """A request breaks a documented rule; raised before anything is sent.

    Attributes:
        problems: Everything found wrong, one `FieldProblem` each.
    """

    def __init__(self, request: str, problems: Sequence[FieldProblem]) -> None:
        """Describe `problems` of a request of the class named `request`."""
        self.problems: tuple[FieldProblem, ...] = tuple(problems)
        super().__init__(f"{request}: " + "; ".join(map(str, self.problems)))


class WrongEventLoopError(StabilityError):
    """A client or limiter of one event loop was used from another. Make one for each loop.

    Clients of one key and address share their quota all the same.
    """


class QuotaTimeoutError(StabilityError):
    """The quota cannot serve a request before its deadline; it was not sent.

    Attributes:
        retry_after: Seconds until a request of this kind could be served, as far as known now.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        """Carry `retry_after`, seconds."""
        self.retry_after = retry_after
        super().__init__(message)


class BudgetExceededError(StabilityError):
    """A request would spend more than the budget has left; it was not sent.

    For budgets of an application, such as one for each user: the client has none and never raises
    it, and jobs stop with the state `budget`. `stable_async.web` answers it with 503.
    """


class _Judged:
    """The base of the errors that carry a verdict."""

    verdict: Verdict

    @property
    def from_api(self) -> bool:
        """Whether the API itself has answered; see `Verdict`."""
        return self.verdict.from_api

    @property
    def concerns(self) -> Literal["request", "account", "service", "network"]:
        """What it is about; see `Verdict`."""
        return self.verdict.concerns

    @property
    def maybe_billed(self) -> bool:
        """Whether it may have cost something."""
        return self.verdict.billed != "no"


class APIStatusError(StabilityError, _Judged):
    """The API, or an intermediary, answered with an error status.

    Attributes:
        verdict: Who answered, and what it means; `from_api`, `concerns` and `maybe_billed` are
            parts of it.
        status: HTTP status.
        name: The API's name of the error, such as `bad_request`; empty when the API has not
            answered.
        errors: The messages, one or more, cleaned: without control characters and without the key.
        request_id: The answer's `x-request-id`, else the `id` of its body.
        attempts: How many attempts were made, this one included.
        retry_after: The answer's `Retry-After`, seconds.
        address: Where the request was sent: scheme, host and path.
    """

    def __init__(
        self,
        *,
        verdict: Verdict,
        status: int,
        name: str = "",
        errors: Sequence[str] = (),
        request_id: str | None = None,
        attempts: int = 1,
        retry_after: float | None = None,
        address: str = "",
    ) -> None:
        """Take the facts of the answer; see the class."""
        self.verdict = verdict
        self.status = status
        self.name = name
        self.errors: tuple[str, ...] = tuple(errors)
        self.request_id = request_id
        self.attempts = attempts
        self.retry_after = retry_after
        self.address = address
        super().__init__(status, name, self.errors)

    @property
    def text(self) -> str:
        """Return status, name, messages, request id and attempts in one line."""
        text = " ".join(part for part in (str(self.status), self.name) if part)
        if not self.from_api:
            text += (
                f" from an intermediary on the way to {self.address or 'the API'}, not from the API"
            )
        if self.errors:
            text += ": " + "; ".join(self.errors)
        if self.request_id:
            text += f" (request {self.request_id})"
        if self.attempts > 1:
            text += f" after {self.attempts} attempts"
        return text


class BadRequestError(APIStatusError):
    """400: a parameter is not accepted. Correct the request."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PaymentRequiredError(APIStatusError):
    """The account has too few credits: 402, or 429 or 403 with a name that says so."""


class ContentModerationError(APIStatusError):
    """403 `content_moderation`: the API flagged the request, refused it and did not charge it."""


class PermissionDeniedError(APIStatusError):
    """403: the account may not do this or is suspended; or a firewall's page (not `from_api`)."""


class NotFoundError(APIStatusError):
    """404: no such generation (or not with this key), no such engine; or a wrong base URL."""


class PayloadTooLargeError(APIStatusError):
    """413: the request is larger than the API, or a proxy on the way, accepts."""


class UnprocessableError(APIStatusError):
    """422: another language than English, a public figure, copyrighted content."""


class RateLimitError(APIStatusError):
    """429 to all attempts: the penalty blocks the key."""


class ServerError(APIStatusError):
    """5xx: the API failed, or could not be reached. Only 500 is retried."""


class APIConnectionError(StabilityError, _Judged):
    """No whole answer came.

    Attributes:
        verdict: What it means. With `maybe_billed` the request may have reached the server, so its
            image may have been made and billed. Such a request is never sent again by the client.
        attempts: How many attempts were made, this one included.
    """

    def __init__(self, message: str, *, verdict: Verdict, attempts: int = 1) -> None:
        """Carry what is known about the attempt."""
        self.verdict = verdict
        self.attempts = attempts
        super().__init__(message)

    @property
    def text(self) -> str:
        """Return the message, which says so when the request may have been billed."""
        text = str(self.args[0])
        if self.verdict.billed == "maybe":
            text += "; the request may have been billed"
        return text


class APITimeoutError(APIConnectionError):
    """A time limit expired: to connect, for the first byte, between bytes, or for a result."""


class InvalidResponseError(StabilityError, _Judged):
    """The answer says success, but is not what the operation returns.

    Attributes:
        verdict: What it means. A success was reported, so `maybe_billed` is true unless the request
            was free.
        request_id: The answer's `x-request-id`.
        result: The result itself, if `StabilityClient.submit` was answered with it and not with an
            id; else `None`.
    """

    def __init__(
        self,
        message: str,
        *,
        verdict: Verdict,
        request_id: str | None = None,
        result: object = None,
    ) -> None:
        """Carry the id, which the API's support asks for."""
        self.verdict = verdict
        self.request_id = request_id
        self.result = result
        super().__init__(message)


class ContentFilteredError(StabilityError):
    """The result was blurred by the content filter; it is billed like any success.

    Raised only with `raise_on_filtered=True`.

    Attributes:
        result: The blurred result, as received.
    """

    def __init__(self, result: object) -> None:
        """Keep the result: it was paid for."""
        self.result = result
        super().__init__(
            "the result was blurred by the content filter (finish reason CONTENT_FILTERED)"
        )
