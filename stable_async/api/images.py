"""What the API accepts as an image. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from stable_async.api.heads import FileHead
from stable_async.errors import FieldProblem
from stable_async.image_header import read_image_header

__all__ = ["ImageLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What the API accepts as an image: JPEG, PNG or WebP, by content, within limits of size.

    Attributes:
        min_side: Lowest width and height, pixels.
        max_side: Highest width and height, pixels; `None` where no source states one.
        min_pixels: Lowest width times height.
        max_pixels: Highest width times height; `None` where no source states one.
        aspect_ratio: Lowest and highest width to height; `None` where no source states them.
    """

    min_side: int = 64
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    aspect_ratio: tuple[float, float] | None = None

    def problem(self, field: str, head: FileHead) -> FieldProblem | None:
        """Return what is wrong with the file in `field`.

        Raises:
            EOFError: The header continues after `head`.
        """
        try:
            image = read_image_header(head.data)
        except EOFError:
            if not head.complete:
                raise
            return FieldProblem(field, "given a file that ends in its header", FORMATS)
        if image is None:
            return FieldProblem(field, "given another kind of file", FORMATS)
        if allowed := self._broken(image.width, image.height):
            given = f"given {image.width} x {image.height} pixels"
            return FieldProblem(field, given, allowed)
        return None

    def _broken(self, width: int, height: int) -> str | None:
        shorter, longer = sorted((width, height))
        pixels = width * height
        if shorter < self.min_side:
            return f"sides of {self.min_side} pixels or more"
        if self.max_side is not None and longer > self.max_side:
            return f"sides of up to {self.max_side} pixels"
        if pixels < self.min_pixels:
            return f"{self.min_pixels} pixels or more in all"
        if self.max_pixels is not None and pixels > self.max_pixels:
            return f"up to {self.max_pixels} pixels in all"
        if self.aspect_ratio is not None:
            lowest, highest = self.aspect_ratio
            if not lowest <= width / height <= highest:
                return f"a width of {lowest:g} to {highest:g} times the height"
        return None


FORMATS = "a JPEG, PNG or WebP image"
