"""`client.edit`: changed images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from stable_async.api.edit import (
    Erase,
    Inpaint,
    Outpaint,
    RemoveBackground,
    ReplaceBackgroundAndRelight,
    SearchAndRecolor,
    SearchAndReplace,
)
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async.api.edit import LightDirection
    from stable_async.api.fields import ImageFormat, StylePreset
    from stable_async.api.file_input import FileInput
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["Edit"]


class Edit(Group):
    """Changes images."""

    async def erase(
        self,
        image: FileInput,
        *,
        mask: FileInput | None = None,
        grow_mask: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Remove what a mask covers: 5 credits; see `Erase` for the fields."""
        return await self._send(
            Erase(
                image=image,
                mask=mask,
                grow_mask=grow_mask,
                seed=seed,
                output_format=output_format,
            ),
            **options,
        )

    async def inpaint(
        self,
        image: FileInput,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        mask: FileInput | None = None,
        grow_mask: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Repaint what a mask covers: 5 credits; see `Inpaint` for the fields."""
        return await self._send(
            Inpaint(
                image=image,
                prompt=prompt,
                negative_prompt=negative_prompt,
                mask=mask,
                grow_mask=grow_mask,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def outpaint(
        self,
        image: FileInput,
        *,
        left: int | None = None,
        right: int | None = None,
        up: int | None = None,
        down: int | None = None,
        creativity: float | None = None,
        prompt: str | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Extend an image beyond its edges: 4 credits; see `Outpaint` for the fields."""
        return await self._send(
            Outpaint(
                image=image,
                left=left,
                right=right,
                up=up,
                down=down,
                creativity=creativity,
                prompt=prompt,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def search_and_replace(
        self,
        image: FileInput,
        prompt: str,
        search_prompt: str,
        *,
        negative_prompt: str | None = None,
        grow_mask: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Replace one thing with another: 5 credits; see `SearchAndReplace` for the fields."""
        return await self._send(
            SearchAndReplace(
                image=image,
                prompt=prompt,
                search_prompt=search_prompt,
                negative_prompt=negative_prompt,
                grow_mask=grow_mask,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def search_and_recolor(
        self,
        image: FileInput,
        prompt: str,
        select_prompt: str,
        *,
        negative_prompt: str | None = None,
        grow_mask: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Recolor one thing: 5 credits; see `SearchAndRecolor` for the fields."""
        return await self._send(
            SearchAndRecolor(
                image=image,
                prompt=prompt,
                select_prompt=select_prompt,
                negative_prompt=negative_prompt,
                grow_mask=grow_mask,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def remove_background(
        self,
        image: FileInput,
        *,
        output_format: Literal["png", "webp"] | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Cut out the subject: 5 credits; see `RemoveBackground` for the fields."""
        return await self._send(
            RemoveBackground(
                image=image,
                output_format=output_format,
            ),
            **options,
        )

    async def replace_background_and_relight(
        self,
        subject_image: FileInput,
        *,
        background_reference: FileInput | None = None,
        background_prompt: str | None = None,
        foreground_prompt: str | None = None,
        negative_prompt: str | None = None,
        preserve_original_subject: float | None = None,
        original_background_depth: float | None = None,
        keep_original_background: Literal["true", "false"] | None = None,
        light_source_direction: LightDirection | None = None,
        light_reference: FileInput | None = None,
        light_source_strength: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Replace the background and light, and wait for it: 8 credits; fields:
        `ReplaceBackgroundAndRelight`.
        """
        return await self._send(
            ReplaceBackgroundAndRelight(
                subject_image=subject_image,
                background_reference=background_reference,
                background_prompt=background_prompt,
                foreground_prompt=foreground_prompt,
                negative_prompt=negative_prompt,
                preserve_original_subject=preserve_original_subject,
                original_background_depth=original_background_depth,
                keep_original_background=keep_original_background,
                light_source_direction=light_source_direction,
                light_reference=light_reference,
                light_source_strength=light_source_strength,
                seed=seed,
                output_format=output_format,
            ),
            **options,
        )
