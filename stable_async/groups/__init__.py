"""The coroutines of the client: one module per group, loaded when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

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


class Groups(Sender):
    """The groups of a client, loaded lazily: each request model takes a millisecond to load."""

    def forget_groups(self) -> None:
        """Create the groups again on next use: a copied client has the groups of its original."""
        for name, member in vars(Groups).items():
            if isinstance(member, cached_property):
                self.__dict__.pop(name, None)

    @cached_property
    def generate(self) -> Generate:
        """Images from prompts."""
        from stable_async.groups.generate import Generate

        return Generate(self)

    @cached_property
    def upscale(self) -> Upscale:
        """Larger images."""
        from stable_async.groups.upscale import Upscale

        return Upscale(self)

    @cached_property
    def edit(self) -> Edit:
        """Changed images."""
        from stable_async.groups.edit import Edit

        return Edit(self)

    @cached_property
    def control(self) -> Control:
        """Images from a sketch, a structure or a style."""
        from stable_async.groups.control import Control

        return Control(self)

    @cached_property
    def model3d(self) -> Model3D:
        """Textured models of what an image shows."""
        from stable_async.groups.model3d import Model3D

        return Model3D(self)

    @cached_property
    def audio(self) -> Audio:
        """Audio from prompts and audio."""
        from stable_async.groups.audio import Audio

        return Audio(self)

    @cached_property
    def results(self) -> Results:
        """Results of asynchronous operations."""
        from stable_async.groups.results import Results

        return Results(self)

    @cached_property
    def v1(self) -> V1:
        """The older interface: SDXL and earlier engines."""
        from stable_async.groups.v1 import V1

        return V1(self)

    @cached_property
    def account(self) -> Account:
        """The account of the key."""
        from stable_async.groups.account import Account

        return Account(self)
