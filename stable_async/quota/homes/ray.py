"""The quota's home in a named Ray actor, which outlives the programs that use it."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import RayError

from stable_async.errors import ConfigurationError
from stable_async.quota.homes.central import CentralState
from stable_async.quota.homes.remote import UnreachableError

if TYPE_CHECKING:
    from stable_async.quota.homes.central import Answer, Message

__all__ = ["NAMESPACE", "RayService"]

NAMESPACE = "stable_async"


class _Keeper:
    """The actor. A restarted one has lost the state, and starts like a new one."""

    def __init__(self) -> None:
        self._state: CentralState | None = None

    def exchange(self, message: Message) -> Answer:
        now = time.monotonic()
        state = self._state
        # After a long time without use, the terms of the first process apply.
        if state is None or (state.terms != message["terms"] and state.is_unused(now)):
            state = self._state = CentralState(message["terms"], now, secrets.token_hex(8))
        return state.exchange(message, now)


class RayService:
    """Access to the actor for processes of a cluster."""

    def __init__(self, name: str) -> None:
        """Prepare; the first `connect` creates the actor."""
        self.where: str = f"Ray actor {name}"
        self._name = f"stable_async.quota.{name}"
        self._actor: Any = None

    async def connect(self) -> None:
        """Find or create the actor.

        Raises:
            UnreachableError: The cluster does not answer now.
            ConfigurationError: This process is not in a cluster.
        """
        if self._actor is not None:
            return
        if not ray.is_initialized():
            raise ConfigurationError("a quota in Ray needs a cluster: call ray.init() before")
        try:
            remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(_Keeper)
            options = {"name": self._name, "namespace": NAMESPACE, "lifetime": "detached"}
            self._actor = remote.options(get_if_exists=True, **options).remote()
        except (RayError, ValueError) as error:
            raise UnreachableError(_short(error)) from None

    async def exchange(self, message: Message) -> Answer:
        """Send a message to the actor and return its answer.

        Raises:
            UnreachableError: There is no answer; the message may have arrived.
        """
        try:
            return cast("Answer", await self._actor.exchange.remote(message))
        except RayError as error:
            self._actor = None
            raise UnreachableError(_short(error)) from None

    async def aclose(self) -> None:
        """Drop the reference to the actor, which stays for others."""
        self._actor = None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
