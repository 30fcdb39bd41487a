"""The coroutines of the client: one module per group, loaded when it is first used."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stable_async.groups.base import Sender

if TYPE_CHECKING:
    from stable_async.groups.account import Account
    from stable_async.groups.audio import Audio
    from stable_async.groups.control import Control
    from stable_async.groups.edit import Edit
    from stable_async.groups.generate import Generate
    from stable_async.groups.model3d import Model3D
    from stable_async.groups.results import Results
    from stable_async.groups.upscale import Upscale
    from stable_async.groups.v1 import V1

__all__ = ["Groups"]


def _group(module: str, name: str) -> cached_property[Any]:
    """Return the property that loads a group: each request model takes a millisecond to load."""

    def load(client: Sender) -> object:
        return getattr(import_module(f"stable_async.groups.{module}"), name)(client)

    return cached_property(load)


class Groups(Sender):
    """The groups of a client."""

    generate: cached_property[Generate] = _group("generate", "Generate")
    """Images from prompts."""
    upscale: cached_property[Upscale] = _group("upscale", "Upscale")
    """Larger images."""
    edit: cached_property[Edit] = _group("edit", "Edit")
    """Changed images."""
    control: cached_property[Control] = _group("control", "Control")
    """Images from a sketch, a structure or a style."""
    model3d: cached_property[Model3D] = _group("model3d", "Model3D")
    """Textured models of what an image shows."""
    audio: cached_property[Audio] = _group("audio", "Audio")
    """Audio from prompts and audio."""
    results: cached_property[Results] = _group("results", "Results")
    """Results of asynchronous operations."""
    v1: cached_property[V1] = _group("v1", "V1")
    """The older interface: SDXL and earlier engines."""
    account: cached_property[Account] = _group("account", "Account")
    """The account of the key."""

    def forget_groups(self) -> None:
        """Create the groups again on next use: a copied client has the groups of its original."""
        for name, member in vars(Groups).items():
            if isinstance(member, cached_property):
                self.__dict__.pop(name, None)
