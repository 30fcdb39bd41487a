"""The base of the groups of coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, Unpack

if TYPE_CHECKING:
    from stable_async.api.base import Request
    from stable_async.transport.options import CallOptions

__all__ = ["Group", "Sender"]

ResultT = TypeVar("ResultT")


class Sender(Protocol):
    """Sends requests: the client."""

    async def send(
        self, request: Request[ResultT], **options: Unpack[CallOptions[ResultT]]
    ) -> ResultT:
        """Send a request and return its result."""


class Group:
    """Coroutines of one group of operations.

    Each raises what `StabilityClient.send` does; its request model states limits and sources.
    """

    def __init__(self, sender: Sender) -> None:
        """Send through `sender`."""
        self._send = sender.send
