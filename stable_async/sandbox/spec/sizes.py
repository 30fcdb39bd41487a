"""The size of the image that an operation makes, in pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_async.sandbox.media_info import ImageInfo
    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["output_size"]

Size = tuple[int, int]

# One megapixel, the sizes that the SDXL models were trained on. 1:1 and 16:9 were observed live on
# 2026-09-22; the others are from the same table.
MEGAPIXEL: dict[str, Size] = {
    "21:9": (1536, 640),
    "16:9": (1344, 768),
    "3:2": (1216, 832),
    "5:4": (1152, 896),
    "1:1": (1024, 1024),
    "4:5": (896, 1152),
    "2:3": (832, 1216),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
# Observed live: 3112x3112 and 3152x3152, from 512x512.
CONSERVATIVE_SIDE = 3112
CREATIVE_SIDE = 3152


def output_size(operation: Operation, parameters: Parameters) -> Size:
    """Return the width and height of the output of `operation`."""
    ratio = parameters.text("aspect_ratio")
    source = next(iter(parameters.images.values()), None)
    match operation.id:
        case "generate_core":
            # 1536x1536 observed live where the documentation says 1.5 megapixels.
            width, height = MEGAPIXEL[ratio]
            return width * 3 // 2, height * 3 // 2
        case "generate_sd3" if source is not None:
            return _nearest(source)
        case "generate_ultra" | "generate_sd3":
            return MEGAPIXEL[ratio]
        case "control_style":
            return _exact(ratio)
        case "v1_text_to_image":
            return int(parameters.number("width")), int(parameters.number("height"))
    if source is None:
        raise ValueError(f"{operation.id} makes nothing without an image")
    return _from_source(operation.id, source, parameters)


def _from_source(operation: str, source: ImageInfo, parameters: Parameters) -> Size:
    width, height = source.width, source.height
    match operation:
        case "upscale_fast":
            return width * 4, height * 4
        case "upscale_conservative":
            return _scaled(source, CONSERVATIVE_SIDE**2)
        case "upscale_creative" | "v2alpha_upscale":
            return _scaled(source, CREATIVE_SIDE**2)
        case "control_style_transfer":
            return _scaled(source, 1024**2)
        case "edit_outpaint":
            return (
                width + int(parameters.number("left") + parameters.number("right")),
                height + int(parameters.number("up") + parameters.number("down")),
            )
        case "v1_image_to_image_upscale":
            return _v1_upscaled(source, parameters)
    return width, height


def _v1_upscaled(source: ImageInfo, parameters: Parameters) -> Size:
    """Return twice the input size, or the requested width or height with the other in
    proportion.
    """
    if asked := int(parameters.number("width")):
        return asked, max(1, round(source.height * asked / source.width))
    if asked := int(parameters.number("height")):
        return max(1, round(source.width * asked / source.height)), asked
    return source.width * 2, source.height * 2


def _scaled(source: ImageInfo, pixels: int) -> Size:
    """Return the size with the source's aspect ratio and this many pixels."""
    factor = math.sqrt(pixels / (source.width * source.height))
    return max(1, round(source.width * factor)), max(1, round(source.height * factor))


def _nearest(source: ImageInfo) -> Size:
    """Return the one-megapixel size whose aspect ratio is nearest to the source's."""
    ratio = math.log(source.width / source.height)
    return min(MEGAPIXEL.values(), key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


def _exact(ratio: str) -> Size:
    """Return the table's shorter side, and the longer one by the exact ratio: 1365x768 for 16:9."""
    width, height = MEGAPIXEL[ratio]
    across, down = map(int, ratio.split(":"))
    if width >= height:
        return height * across // down, height
    return width, width * down // across
