"""The base of the groups of coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, Unpack, cast

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

    The parameters of each are the fields of its request model, and the options of the call; a test
    compares names, types and defaults.
    """

    def __init__(self, sender: Sender) -> None:
        """Send through `sender`."""
        self._sender = sender

    async def _send(self, model: type[Request[ResultT]], arguments: dict[str, object]) -> ResultT:
        """Send a request made of a coroutine's arguments, as `locals()` returns them."""
        fields = {name: value for name, value in arguments.items() if name != "self"}
        options = cast("CallOptions[ResultT]", fields.pop("options"))
        return await self._sender.send(model(**fields), **options)
