"""What the groups of coroutines have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, TypeVar, Unpack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stable_async.api.base import Request
    from stable_async.quota import Priority
    from stable_async.transport.session import AttemptObserver

__all__ = ["CallOptions", "Group"]

ResultT = TypeVar("ResultT")


class CallOptions(TypedDict, total=False):
    """How one call is made; not sent to the API.

    Attributes:
        priority: `interactive` (the default) leaves before `bulk`, which still gets its share.
        deadline: Seconds from now within which the request must leave, else `QuotaTimeoutError`.
        tenant: Requests of one priority take turns by tenant.
        raise_on_filtered: Make a filtered result a `ContentFilteredError`.
        observer: Is told of each attempt; what its `leaving` raises comes out, and nothing is sent.
        on_disconnect: What becomes of a call that is cancelled once its request has left, and may
            be billed: `cut` (the default) closes the connection, `finish` brings the result in.
            A request that has not left is taken back in any case, and nothing is paid.
        on_finished: Gets the result then; needed with `finish`. `aclose` waits for it.
    """

    priority: Priority
    deadline: float | None
    tenant: str | None
    raise_on_filtered: bool
    observer: AttemptObserver | None
    on_disconnect: Literal["cut", "finish"]
    on_finished: Callable[[object], Awaitable[None]] | None


class Sender(Protocol):
    """Whoever sends requests: the client."""

    async def send(self, request: Request[ResultT], **options: Unpack[CallOptions]) -> ResultT:
        """Send a request and give its result."""


class Group:
    """Coroutines of one group of operations."""

    def __init__(self, sender: Sender) -> None:
        """Send through `sender`."""
        self._send = sender.send
