"""`client.audio`: audio from prompts and audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from stable_async.api.audio import AudioInpaint, AudioToAudio, TextToAudio
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async import media
    from stable_async.api.audio import AudioFormat, AudioModel
    from stable_async.api.file_input import FileInput
    from stable_async.transport.options import CallOptions

__all__ = ["Audio"]


class Audio(Group):
    """Makes audio. With stable-audio-3 each coroutine waits for an asynchronous operation."""

    async def text_to_audio(
        self,
        prompt: str,
        *,
        duration: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        model: AudioModel | None = None,
        output_format: AudioFormat | None = None,
        **options: Unpack[CallOptions[media.Audio]],
    ) -> media.Audio:
        """Make audio from text: 18.8 to 26 credits; see `TextToAudio` for the fields."""
        return await self._send(
            TextToAudio(
                prompt=prompt,
                duration=duration,
                seed=seed,
                steps=steps,
                cfg_scale=cfg_scale,
                model=model,
                output_format=output_format,
            ),
            **options,
        )

    async def audio_to_audio(
        self,
        prompt: str,
        audio: FileInput,
        *,
        duration: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        model: AudioModel | None = None,
        output_format: AudioFormat | None = None,
        strength: float | None = None,
        **options: Unpack[CallOptions[media.Audio]],
    ) -> media.Audio:
        """Make audio from text and audio: 18.8 to 26 credits; fields: `AudioToAudio`."""
        return await self._send(
            AudioToAudio(
                prompt=prompt,
                audio=audio,
                duration=duration,
                seed=seed,
                steps=steps,
                cfg_scale=cfg_scale,
                model=model,
                output_format=output_format,
                strength=strength,
            ),
            **options,
        )

    async def inpaint(
        self,
        prompt: str,
        audio: FileInput,
        *,
        model: Literal["stable-audio-2.5", "stable-audio-3"] | None = None,
        duration: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        output_format: AudioFormat | None = None,
        mask_start: float | None = None,
        mask_end: float | None = None,
        **options: Unpack[CallOptions[media.Audio]],
    ) -> media.Audio:
        """Regenerate a part of audio: 20 or 26 credits; see `AudioInpaint` for the fields."""
        return await self._send(
            AudioInpaint(
                prompt=prompt,
                audio=audio,
                model=model,
                duration=duration,
                seed=seed,
                steps=steps,
                cfg_scale=cfg_scale,
                output_format=output_format,
                mask_start=mask_start,
                mask_end=mask_end,
            ),
            **options,
        )
