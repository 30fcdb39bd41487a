"""Pillow images and numpy arrays, encoded as PNG. Pillow is loaded only when one is sent."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, cast

from stable_async.api.file_input import UnfitSourceError

if TYPE_CHECKING:
    import PIL.Image

    from stable_async.api.file_input import SupportsArrayInterface

__all__ = ["encode_png"]

ARRAYS = "an array of uint8, shaped H x W, H x W x 3 (RGB) or H x W x 4 (RGBA)"
UINT8 = "|u1"
# The Pillow modes that PNG stores without loss and that the API is known to read.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# The file is a sixth larger than with Pillow's default of 6, in a quarter of the time.
COMPRESS_LEVEL = 1

# Pillow reads an opened file when its pixels are first used, and its images are not thread-safe.
_COPYING = threading.Lock()


def encode_png(pixels: SupportsArrayInterface) -> bytes:
    """Return a Pillow image or a numpy array as PNG. Blocks for about 0.1 s per megapixel.

    Raises:
        UnfitSourceError: Its mode, type or shape cannot be sent, or Pillow is missing.
    """
    try:
        import PIL.Image
    except ImportError:
        raise UnfitSourceError(
            "an array, which is sent as PNG by Pillow, and Pillow is not installed",
            "an encoded image, or Pillow installed",
        ) from None
    if isinstance(pixels, PIL.Image.Image):
        image = _copy(pixels)
    else:
        _check_array(pixels)
        image = PIL.Image.fromarray(cast("PIL.Image.SupportsArrayInterface", pixels))
    file = io.BytesIO()
    image.save(file, "png", compress_level=COMPRESS_LEVEL)
    return file.getvalue()


def _copy(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode not in MODES:
        raise UnfitSourceError(
            f"a Pillow image of mode {image.mode}", f"modes {', '.join(MODES)}; see `convert`"
        )
    try:
        with _COPYING:
            return image.copy()
    except (OSError, ValueError) as error:
        raise UnfitSourceError(
            f"a Pillow image that cannot be read ({type(error).__name__})", "a whole image"
        ) from error


def _check_array(array: SupportsArrayInterface) -> None:
    interface = array.__array_interface__
    shape, kind = interface["shape"], interface["typestr"]
    if isinstance(shape, tuple) and kind == UINT8 and 0 not in shape:
        match shape:
            case (_, _) | (_, _, 3 | 4):
                return
    raise UnfitSourceError(f"an array of shape {shape} and type {kind}", ARRAYS)
