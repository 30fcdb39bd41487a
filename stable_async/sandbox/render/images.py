"""Images drawn from a request: a scene, a caption, and the file formats.

The same prompt, seed and parameters return the same bytes. Everything is flat areas, so that an
image of 2.4 megapixels is drawn and encoded in about 25 ms.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import struct
import textwrap
import zlib
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from stable_async.sandbox.render.scenes import draw_scene

__all__ = ["ImageSpec", "blur", "caption", "encode", "paint", "scene", "thumbnail"]

# A prompt may be very long, and only its beginning is visible.
MAX_CAPTION = 2_000


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What to paint.

    Attributes:
        width: Pixels.
        height: Pixels.
        prompt: Shown in the caption; selects the scene.
        note: The caption's second line: model, seed, aspect ratio.
        style: The style preset; empty for none.
        identity: Everything the image depends on, as one string.
    """

    width: int
    height: int
    prompt: str
    note: str
    style: str
    identity: str


def paint(spec: ImageSpec) -> Image.Image:
    """Return the image of `spec`, with its caption."""
    image = scene(spec)
    caption(image, spec.prompt, spec.note)
    return image


def scene(spec: ImageSpec) -> Image.Image:
    """Return the image of `spec` without a caption."""
    rng = random.Random(hashlib.sha256(spec.identity.encode()).digest())  # noqa: S311
    return draw_scene(spec.width, spec.height, spec.prompt, spec.style, rng)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def caption(image: Image.Image, prompt: str, note: str) -> None:
    """Write the prompt and the note on a dark strip at the bottom of `image`."""
    width, height = image.size
    size = max(9, min(width, height) // 32)
    if width < size * 8 or height < size * 6:
        return
    per_line = int((width - size * 2) / (size * 0.5))
    lines = textwrap.wrap(_printable(prompt[:MAX_CAPTION]), per_line, max_lines=3, placeholder="…")
    strip = int(size * (1.35 * (len(lines) + 1) + 1.0))
    draw = ImageDraw.Draw(image)
    top = height - strip
    draw.rectangle((0, top, width, height), fill=(18, 18, 26))
    draw.rectangle((0, top, max(4, size // 3), height), fill=(244, 162, 97))
    for number, line in enumerate(lines):
        draw.text(
            (size, top + size * (0.5 + 1.35 * number)), line, fill=(255, 255, 255), font=_font(size)
        )
    small = max(8, int(size * 0.75))
    y = top + size * (0.7 + 1.35 * len(lines))
    draw.text((size, y), note, fill=(190, 190, 202), font=_font(small))


def blur(image: Image.Image) -> Image.Image:
    """Return an unrecognisably blurred image, as the content filter sends it."""
    small = image.resize((max(1, image.width // 96), max(1, image.height // 96)))
    return small.resize(image.size, Image.Resampling.BILINEAR)


def thumbnail(image: Image.Image, side: int = 320) -> bytes:
    """Return a small JPEG of `image`."""
    factor = max(image.size) / side
    coarse = image
    if factor > 2:
        # Samples every few pixels: good enough at this size, and twenty times as fast.
        size = (max(1, int(image.width * 2 / factor)), max(1, int(image.height * 2 / factor)))
        coarse = image.resize(size, Image.Resampling.NEAREST)
    coarse.thumbnail((side, side), Image.Resampling.BOX)
    if coarse.mode != "RGB":
        flat = Image.new("RGB", coarse.size, (255, 255, 255))
        flat.paste(coarse, mask=coarse.getchannel("A") if "A" in coarse.getbands() else None)
        coarse = flat
    out = io.BytesIO()
    coarse.save(out, "JPEG", quality=80)
    return out.getvalue()


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return the file of `image` in `jpeg`, `png` or `webp`."""
    if output_format == "png":
        return _encode_png(image)
    out = io.BytesIO()
    if output_format == "jpeg":
        image.convert("RGB").save(out, "JPEG", quality=90)
    else:
        image.save(out, "WEBP", quality=80, method=0)
    return out.getvalue()


def _encode_png(image: Image.Image) -> bytes:
    """Return a PNG without row filters: flat areas need none, and choosing one is slow."""
    channels, colour_type = (4, 6) if image.mode == "RGBA" else (3, 2)
    raw = memoryview(image.tobytes())
    stride = image.width * channels
    rows = [b"\0" + raw[at : at + stride] for at in range(0, len(raw), stride)]
    header = struct.pack(">2I5B", *image.size, 8, colour_type, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(b"".join(rows), 1)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return b"".join(
        (
            struct.pack(">I", len(data)),
            name,
            data,
            struct.pack(">I", zlib.crc32(data, zlib.crc32(name))),
        )
    )
