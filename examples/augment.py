"""Variations of an image for training: Pillow and numpy in, Pillow and numpy out.

STABILITY_API_KEY=... python -m examples.augment photo.png variations/
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import PIL.Image

from stable_async import ControlStructure, Image, Request, StabilityClient

WEATHER = ("in fog", "at night", "in snow")


async def main(photo: str, folder: str) -> None:
    pixels = np.asarray(PIL.Image.open(photo).convert("RGB"))
    sources = (pixels, np.fliplr(pixels), np.clip(pixels * 1.3, 0, 255).astype(np.uint8))
    requests: list[Request[Image]] = [
        ControlStructure(prompt=weather, image=source, seed=number + 1)
        for weather in WEATHER
        for number, source in enumerate(sources)
    ]
    async with StabilityClient() as client:
        async for outcome in client.map(requests):
            if outcome.error is not None:
                raise outcome.error
            small = outcome.result.to_pil().resize((256, 256))
            small.save(Path(folder, f"{requests.index(outcome.request)}.png"))


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    asyncio.run(main(*sys.argv[1:]))
