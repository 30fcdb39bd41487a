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

What to do next: `ConfigurationError`, `InvalidRequestError` and the 4xx classes want another
request, key or account; `RateLimitError`, `ServerError` and `QuotaTimeoutError` want time;
`APIConnectionError` and `InvalidResponseError` want a decision, since the picture may have been
made and billed (`maybe_billed`).

The key, prompts and pictures appear in no text of an error. Errors survive pickling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    "WrongEventLoopError",
    "status_error_class",
]


# "Failed generations are not charged": OpenAPI document of api.stability.ai, read 2026-09-22.
# The other 5xx come from an edge in front of the API, which cannot know.
FAILED_GENERATION = 500


def _rebuild(
    cls: type[StabilityError], args: tuple[object, ...], state: dict[str, object]
) -> StabilityError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class StabilityError(Exception):
    """Root of every error of this package.

    Attributes:
        generation_id: The generation whose result was waited for: it was submitted, paid for, and
            can still be fetched with `client.results.get`. `None` for everything else.
    """

    generation_id: str | None = None

    def attach_generation(self, generation_id: str) -> None:
        """Note that this happened while waiting for the result of `generation_id`."""
        if self.generation_id is None:
            self.generation_id = generation_id
            self.add_note(f"generation {generation_id} is paid for; its result can be fetched")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes, not by a call of the subclass's own signature."""
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(StabilityError):
    """A setting is missing or makes no sense: the key, the base URL, a `Quota` value."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field of a request.

    Attributes:
        field: The API's name of the field; empty for the request as a whole.
        given: What was given, shortened; texts and files are described, not quoted.
        allowed: What the field takes.
    """

    field: str
    given: str
    allowed: str

    def __str__(self) -> str:
        """Give `field: given ...; allowed: ...`."""
        prefix = f"{self.field}: " if self.field else ""
        given = f"{self.given}; " if self.given else ""
        return f"{prefix}{given}allowed: {self.allowed}"


class InvalidRequestError(StabilityError):
    """A request breaks a documented rule; found before anything was sent.

    Attributes:
        problems: Everything found wrong, one `FieldProblem` each.
    """

    def __init__(self, request: str, problems: Sequence[FieldProblem]) -> None:
        """Describe `problems` of a request of the class named `request`."""
        self.problems = tuple(problems)
        super().__init__(f"{request}: " + "; ".join(map(str, self.problems)))


class WrongEventLoopError(StabilityError):
    """A client or limiter of one event loop was used from another. Make one for each loop."""


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
    """A request would spend more than the budget has left; it was not sent."""


class APIStatusError(StabilityError):
    """The API answered with an error status.

    Attributes:
        status: HTTP status.
        name: The API's name of the error, such as `bad_request`; empty when the body has none.
        errors: The API's messages, one or more, the key taken out.
        request_id: The answer's `x-request-id`, else the `id` of its body.
        attempts: How many attempts were made, this one included.
        retry_after: The answer's `Retry-After`, seconds.
    """

    def __init__(
        self,
        *,
        status: int,
        name: str = "",
        errors: Sequence[str] = (),
        request_id: str | None = None,
        attempts: int = 1,
        retry_after: float | None = None,
    ) -> None:
        """Take the facts of the answer; see the class."""
        self.status = status
        self.name = name
        self.errors = tuple(errors)
        self.request_id = request_id
        self.attempts = attempts
        self.retry_after = retry_after
        super().__init__(status, name, self.errors)

    @property
    def maybe_billed(self) -> bool:
        """Whether the picture may have been made and billed all the same: an edge gave up on it."""
        return self.status > FAILED_GENERATION

    def __str__(self) -> str:
        """Give status, name, messages, request id and attempts in one line."""
        text = " ".join(part for part in (str(self.status), self.name) if part)
        if self.errors:
            text += ": " + "; ".join(self.errors)
        if self.request_id:
            text += f" (request {self.request_id})"
        if self.attempts > 1:
            text += f" after {self.attempts} attempts"
        return text


class BadRequestError(APIStatusError):
    """400: the API does not take a parameter. Correct the request."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PaymentRequiredError(APIStatusError):
    """402: the account has too few credits."""


class ContentModerationError(APIStatusError):
    """403 `content_moderation`: the request was flagged, refused and not charged."""


class PermissionDeniedError(APIStatusError):
    """403 `permission_denied` (v1): the key may not use this resource."""


class NotFoundError(APIStatusError):
    """404: no such generation (or not with this key), no such engine."""


class PayloadTooLargeError(APIStatusError):
    """413: the request is larger than the API takes."""


class UnprocessableError(APIStatusError):
    """422: another language than English, a public figure, copyrighted content."""


class RateLimitError(APIStatusError):
    """429: the key is shut out, and stayed so for all attempts."""


class ServerError(APIStatusError):
    """5xx: the API failed. Only 500 is retried; failed generations are not charged."""


class APIConnectionError(StabilityError):
    """No whole answer came.

    Attributes:
        maybe_billed: The request may have reached the server, so its picture may have been made
            and billed. Such a request is never sent again by the client.
        attempts: How many attempts were made, this one included.
    """

    def __init__(self, message: str, *, maybe_billed: bool, attempts: int = 1) -> None:
        """Carry what is known about the attempt."""
        self.maybe_billed = maybe_billed
        self.attempts = attempts
        super().__init__(message)

    def __str__(self) -> str:
        """Give the message, and say so when the request may have been billed."""
        text = str(self.args[0])
        return f"{text}; the request may have been billed" if self.maybe_billed else text


class APITimeoutError(APIConnectionError):
    """A time limit ran out: to connect, for the first byte, or between bytes."""


class InvalidResponseError(StabilityError):
    """The API answered with success, but with something this client cannot read.

    Attributes:
        request_id: The answer's `x-request-id`.
        maybe_billed: Always true: a success was reported.
    """

    maybe_billed = True

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        """Carry the id, for a question to the API's support."""
        self.request_id = request_id
        super().__init__(message)


class ContentFilteredError(StabilityError):
    """The result was blurred by the content filter; it is billed like any success.

    Raised only with `raise_on_filtered=True`.

    Attributes:
        result: The blurred result, as it came.
    """

    def __init__(self, result: object) -> None:
        """Keep the result: it was paid for."""
        self.result = result
        super().__init__(
            "the result was blurred by the content filter (finish reason CONTENT_FILTERED)"
        )


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: ContentModerationError,
    404: NotFoundError,
    413: PayloadTooLargeError,
    422: UnprocessableError,
    429: RateLimitError,
}


def status_error_class(status: int, name: str = "") -> type[APIStatusError]:
    """Give the class of error for an HTTP status and the API's name of the error."""
    if status == 403 and name == "permission_denied":
        return PermissionDeniedError
    if status >= 500:
        return ServerError
    return _BY_STATUS.get(status, APIStatusError)
