"""Requests for what asynchronous operations have made.

Facts: OpenAPI document of api.stability.ai and live runs, both of 2026-09-22.
"""

from __future__ import annotations

from typing import ClassVar

from stable_async.api.base import Operation, ResultRequest
from stable_async.media import Audio, Image, Media

__all__ = ["AudioResult", "ImageResult"]


class ImageResult(ResultRequest[Image]):
    """The image of a generation. Free; kept for 24 hours, for the key that submitted it.

    Attributes:
        id: The generation: any text, as the API returned it.
        paid: List price of the submission, credits, where it is known; not sent.
    """

    operation: ClassVar[Operation] = Operation(
        id="results",
        path="/v2beta/results/{id}",
        credits=0,
        output="the finished image",
        method="GET",
        accept=("*/*", "application/json"),
    )
    media: ClassVar[type[Media]] = Image


class AudioResult(ResultRequest[Audio]):
    """The audio of a generation of Stable Audio 3. Free; how long it is kept is not stated.

    Attributes:
        id: The generation: any text, as the API returned it.
        paid: List price of the submission, credits, where it is known; not sent.
    """

    operation: ClassVar[Operation] = Operation(
        id="audio_results",
        path="/v2beta/audio/results/{id}",
        credits=0,
        output="the finished audio",
        method="GET",
        accept=("audio/*", "application/json"),
    )
    media: ClassVar[type[Media]] = Audio
