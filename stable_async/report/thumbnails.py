"""Small pictures that stand in the page itself, where Pillow is there to make them."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["thumbnails"]

# As sharp as a screen of two pixels to the point shows in a tile, and 500 are a few megabytes.
SIDE = 320
QUALITY = 55
THREADS = 4


def thumbnails(paths: Sequence[Path]) -> list[str | None]:
    """Give `data:` URLs of small pictures; `None` for what cannot be read, all without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return [None] * len(paths)

    def small(path: Path) -> str | None:
        buffer = io.BytesIO()
        try:
            with Image.open(path) as picture:
                picture.draft("RGB", (SIDE, SIDE))
                picture.thumbnail((SIDE, SIDE))
                picture.save(buffer, "WEBP", quality=QUALITY)
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    with ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails") as pool:
        return list(pool.map(small, paths))
