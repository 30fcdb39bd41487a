"""`client.generate`: images from prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from stable_async.api.generate import GenerateCore, GenerateSD3, GenerateUltra
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async.api.fields import AspectRatio, ImageFormat, StylePreset
    from stable_async.api.file_input import FileInput
    from stable_async.api.generate import SD3Model
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["Generate"]


class Generate(Group):
    """Makes images from prompts."""

    async def core(
        self,
        prompt: str,
        *,
        aspect_ratio: AspectRatio | None = None,
        negative_prompt: str | None = None,
        seed: int | None = None,
        style_preset: StylePreset | None = None,
        output_format: ImageFormat | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image with Stable Image Core: 3 credits; see `GenerateCore` for the fields."""
        return await self._send(
            GenerateCore(
                prompt=prompt,
                aspect_ratio=aspect_ratio,
                negative_prompt=negative_prompt,
                seed=seed,
                style_preset=style_preset,
                output_format=output_format,
            ),
            **options,
        )

    async def ultra(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        image: FileInput | None = None,
        style_preset: StylePreset | None = None,
        strength: float | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image with Stable Image Ultra: 8 credits; see `GenerateUltra` for the fields."""
        return await self._send(
            GenerateUltra(
                prompt=prompt,
                negative_prompt=negative_prompt,
                aspect_ratio=aspect_ratio,
                seed=seed,
                output_format=output_format,
                image=image,
                style_preset=style_preset,
                strength=strength,
            ),
            **options,
        )

    async def sd3(
        self,
        prompt: str,
        *,
        mode: Literal["text-to-image", "image-to-image"] | None = None,
        image: FileInput | None = None,
        strength: float | None = None,
        aspect_ratio: AspectRatio | None = None,
        model: SD3Model | None = None,
        seed: int | None = None,
        output_format: ImageFormat | None = None,
        style_preset: StylePreset | None = None,
        negative_prompt: str | None = None,
        cfg_scale: float | None = None,
        **options: Unpack[CallOptions[Image]],
    ) -> Image:
        """Make an image with Stable Diffusion 3.5: 2.5 to 6.5 credits; fields: `GenerateSD3`."""
        return await self._send(
            GenerateSD3(
                prompt=prompt,
                mode=mode,
                image=image,
                strength=strength,
                aspect_ratio=aspect_ratio,
                model=model,
                seed=seed,
                output_format=output_format,
                style_preset=style_preset,
                negative_prompt=negative_prompt,
                cfg_scale=cfg_scale,
            ),
            **options,
        )
