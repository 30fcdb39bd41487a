"""Thumbnails embedded in the page, if Pillow is installed to make them."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.datasets.near_duplicates import perceptual_hash
from stable_async.jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Thumbnail", "thumbnails"]

# Sharp in a tile on a screen with two pixels per point; 500 of them are a few megabytes.
SIDE = 320
QUALITY = 55
THREADS = 4


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image.

    Attributes:
        url: A `data:` URL.
        hash: Its perceptual hash; `None` without ImageHash.
    """

    url: str
    hash: int | None


def thumbnails(paths: Sequence[Path]) -> list[Thumbnail | None]:
    """Return thumbnails; `None` for what cannot be read, and for all without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return [None] * len(paths)
    try:
        hash_of = perceptual_hash()
    except JobError:
        hash_of = None

    def small(path: Path) -> Thumbnail | None:
        buffer = io.BytesIO()
        try:
            with Image.open(path) as image:
                image.draft("RGB", (SIDE, SIDE))
                image.thumbnail((SIDE, SIDE))
                image.save(buffer, "WEBP", quality=QUALITY)
        # Pillow raises many kinds of errors for damaged files.
        except Exception:  # noqa: BLE001
            return None
        data = buffer.getvalue()
        url = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        return Thumbnail(url, None if hash_of is None else hash_of(data))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails") as pool:
        return list(pool.map(small, paths))
