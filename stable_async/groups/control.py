"""`client.control`: images from a sketch, a structure or a style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from stable_async.api.control import ControlSketch, ControlStructure, ControlStyle, StyleTransfer
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async.api.fields import AspectRatio, ImageFormat, StylePreset
    from stable_async.api.file_input import FileInput
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["Control"]


class Control(Group):
    """Makes images guided by other images."""

    async def sketch(
        self,
        prompt: str,
        image: FileInput,
        *,
        control_strength: float | None = None,
        negative_prompt: str | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image from a sketch: 5 credits; see `ControlSketch` for the fields."""
        return await self._send(
            ControlSketch(
                prompt=prompt,
                image=image,
                control_strength=control_strength,
                negative_prompt=negative_prompt,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def structure(
        self,
        prompt: str,
        image: FileInput,
        *,
        control_strength: float | None = None,
        negative_prompt: str | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image with the structure of another: 5 credits; see `ControlStructure`."""
        return await self._send(
            ControlStructure(
                prompt=prompt,
                image=image,
                control_strength=control_strength,
                negative_prompt=negative_prompt,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def style(
        self,
        prompt: str,
        image: FileInput,
        *,
        negative_prompt: str | None = None,
        aspect_ratio: AspectRatio | None = None,
        fidelity: float | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image in the style of another: 5 credits; see `ControlStyle` for the fields."""
        return await self._send(
            ControlStyle(
                prompt=prompt,
                image=image,
                negative_prompt=negative_prompt,
                aspect_ratio=aspect_ratio,
                fidelity=fidelity,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
            ),
            **options,
        )

    async def style_transfer(
        self,
        init_image: FileInput,
        style_image: FileInput,
        *,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        seed: int | None = None,
        style_strength: float | None = None,
        composition_fidelity: float | None = None,
        change_strength: float | None = None,
        output_format: ImageFormat | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Transfer the style of one image to another: 8 credits; fields: `StyleTransfer`."""
        return await self._send(
            StyleTransfer(
                init_image=init_image,
                style_image=style_image,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                style_strength=style_strength,
                composition_fidelity=composition_fidelity,
                change_strength=change_strength,
                output_format=output_format,
            ),
            **options,
        )
