"""`client.results`: results of asynchronous operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from stable_async.api.results import AudioResult, ImageResult
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async import media
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["Results"]


class Results(Group):
    """Fetches results that were made with the same key within the last 24 hours.

    `StabilityClient.poll` looks once without waiting.
    """

    async def get(
        self,
        id: str,  # noqa: A002 - the API's word
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Wait for the image of a generation and return it: free, any number of times."""
        return await self._send(ImageResult(id=id), **options)

    async def get_audio(
        self,
        id: str,  # noqa: A002 - the API's word
        **options: Unpack[CallOptions[media.Audio]],
    ) -> media.Audio:
        """Wait for the audio of a generation and return it: free, any number of times."""
        return await self._send(AudioResult(id=id), **options)
