"""`client.upscale`: larger images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from stable_async.api.upscale import (
    UpscaleConservative,
    UpscaleCreative,
    UpscaleCreativeResult,
    UpscaleFast,
)
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async.api.fields import ImageFormat, StylePreset
    from stable_async.api.file_input import FileInput
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["Upscale"]


class Upscale(Group):
    """Makes images larger."""

    async def fast(
        self,
        image: FileInput,
        *,
        output_format: ImageFormat | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image four times as wide and high: 2 credits; fields: `UpscaleFast`."""
        return await self._send(
            UpscaleFast(
                image=image,
                output_format=output_format,
            ),
            **options,
        )

    async def conservative(
        self,
        image: FileInput,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        creativity: float | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Enlarge an image close to the original: 40 credits; see `UpscaleConservative`."""
        return await self._send(
            UpscaleConservative(
                image=image,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                output_format=output_format,
                creativity=creativity,
            ),
            **options,
        )

    async def creative(
        self,
        image: FileInput,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        output_format: ImageFormat | None = None,
        seed: int | None = None,
        creativity: float | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Regenerate an image at a large size, and wait for it: 60 credits; see
        `UpscaleCreative`.
        """
        return await self._send(
            UpscaleCreative(
                image=image,
                prompt=prompt,
                negative_prompt=negative_prompt,
                output_format=output_format,
                seed=seed,
                creativity=creativity,
                style_preset=style_preset,
            ),
            **options,
        )

    async def creative_result(
        self,
        id: str,  # noqa: A002 - the API's word
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Wait for a creative upscale by the older path; `client.results.get` does the same."""
        return await self._send(UpscaleCreativeResult(id=id), **options)
