"""Variations of an image for training: Pillow and numpy in, Pillow and numpy out.

STABILITY_API_KEY=... python -m examples.augment photo.png variations/
"""

from __future__ import annotations

import asyncio
import sys
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image

from stable_async import ControlStructure, StabilityClient

WEATHER = ("in fog", "at night", "in snow")


async def main(photo: str, folder: str) -> None:
    pixels = np.asarray(PIL.Image.open(photo).convert("RGB"))
    sources = (pixels, np.fliplr(pixels), np.clip(pixels * 1.3, 0, 255).astype(np.uint8))
    requests = [
        ControlStructure(prompt=weather, image=source, seed=seed)
        for seed, (weather, source) in enumerate(product(WEATHER, sources), 1)
    ]
    async with StabilityClient() as client:
        async for outcome in client.map(requests):
            if outcome.error is None:
                small = outcome.result.to_pil().resize((256, 256))
                small.save(Path(folder, f"{outcome.result.seed}.png"))
            else:
                print(outcome.error, file=sys.stderr)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    asyncio.run(main(*sys.argv[1:]))
