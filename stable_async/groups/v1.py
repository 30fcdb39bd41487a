"""`client.v1`: the older interface with SDXL and earlier engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from stable_async.api.v1 import V1Engines, V1ImageToImage, V1Masking, V1TextToImage, V1Upscale
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from stable_async.api.fields import StylePreset
    from stable_async.api.file_input import FileInput
    from stable_async.api.v1 import ClipGuidancePreset, Engine, Sampler, TextPrompt
    from stable_async.media import Image
    from stable_async.transport.options import CallOptions

__all__ = ["V1"]


class V1(Group):
    """Makes images with older engines; no source states what that costs."""

    async def text_to_image(
        self,
        engine_id: str,
        text_prompts: Sequence[TextPrompt],
        *,
        cfg_scale: float | None = None,
        clip_guidance_preset: ClipGuidancePreset | None = None,
        sampler: Sampler | None = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        style_preset: StylePreset | None = None,
        extras: dict[str, JsonValue] | None = None,
        height: int | None = None,
        width: int | None = None,
        **options: Unpack[CallOptions[list[Image]]],
    ) -> list[Image]:
        """Make images from prompts; see `V1TextToImage` for the fields."""
        return await self._send(
            V1TextToImage(
                engine_id=engine_id,
                text_prompts=text_prompts,
                cfg_scale=cfg_scale,
                clip_guidance_preset=clip_guidance_preset,
                sampler=sampler,
                samples=samples,
                seed=seed,
                steps=steps,
                style_preset=style_preset,
                extras=extras,
                height=height,
                width=width,
            ),
            **options,
        )

    async def image_to_image(
        self,
        engine_id: str,
        text_prompts: Sequence[TextPrompt],
        init_image: FileInput,
        *,
        cfg_scale: float | None = None,
        clip_guidance_preset: ClipGuidancePreset | None = None,
        sampler: Sampler | None = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        style_preset: StylePreset | None = None,
        extras: dict[str, JsonValue] | None = None,
        init_image_mode: Literal["IMAGE_STRENGTH", "STEP_SCHEDULE"] | None = None,
        image_strength: float | None = None,
        step_schedule_start: float | None = None,
        step_schedule_end: float | None = None,
        **options: Unpack[CallOptions[list[Image]]],
    ) -> list[Image]:
        """Make images from prompts and an image; see `V1ImageToImage` for the fields."""
        return await self._send(
            V1ImageToImage(
                engine_id=engine_id,
                text_prompts=text_prompts,
                init_image=init_image,
                cfg_scale=cfg_scale,
                clip_guidance_preset=clip_guidance_preset,
                sampler=sampler,
                samples=samples,
                seed=seed,
                steps=steps,
                style_preset=style_preset,
                extras=extras,
                init_image_mode=init_image_mode,
                image_strength=image_strength,
                step_schedule_start=step_schedule_start,
                step_schedule_end=step_schedule_end,
            ),
            **options,
        )

    async def masking(
        self,
        engine_id: str,
        text_prompts: Sequence[TextPrompt],
        init_image: FileInput,
        mask_source: Literal["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"],
        *,
        cfg_scale: float | None = None,
        clip_guidance_preset: ClipGuidancePreset | None = None,
        sampler: Sampler | None = None,
        samples: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        style_preset: StylePreset | None = None,
        extras: dict[str, JsonValue] | None = None,
        mask_image: FileInput | None = None,
        **options: Unpack[CallOptions[list[Image]]],
    ) -> list[Image]:
        """Repaint what a mask covers; see `V1Masking` for the fields."""
        return await self._send(
            V1Masking(
                engine_id=engine_id,
                text_prompts=text_prompts,
                init_image=init_image,
                mask_source=mask_source,
                cfg_scale=cfg_scale,
                clip_guidance_preset=clip_guidance_preset,
                sampler=sampler,
                samples=samples,
                seed=seed,
                steps=steps,
                style_preset=style_preset,
                extras=extras,
                mask_image=mask_image,
            ),
            **options,
        )

    async def upscale(
        self,
        engine_id: str,
        image: FileInput,
        *,
        width: int | None = None,
        height: int | None = None,
        text_prompts: Sequence[TextPrompt] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        **options: Unpack[CallOptions[list[Image]]],
    ) -> list[Image]:
        """Make an image larger; see `V1Upscale` for the fields."""
        return await self._send(
            V1Upscale(
                engine_id=engine_id,
                image=image,
                width=width,
                height=height,
                text_prompts=text_prompts,
                seed=seed,
                steps=steps,
                cfg_scale=cfg_scale,
            ),
            **options,
        )

    async def engines(self, **options: Unpack[CallOptions[list[Engine]]]) -> list[Engine]:
        """List the engines that the key may use: free."""
        return await self._send(V1Engines(), **options)
