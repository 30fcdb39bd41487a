"""A canvas for scenes: a palette, a source of random numbers, and a pen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import ImageDraw

if TYPE_CHECKING:
    import random

    from PIL import Image

__all__ = ["Canvas", "Colour", "Palette", "Point", "mix"]

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a scene: sky from top to horizon, land from far to near, a light, an accent."""

    sky: tuple[Colour, Colour, Colour]
    land: tuple[Colour, Colour]
    light: Colour
    accent: Colour


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour that is `one`, with a share (0 to 1) of `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


class Canvas:
    """An image with its palette, its random numbers, and a pen whose unit is the short side."""

    def __init__(
        self, image: Image.Image, palette: Palette, rng: random.Random, *, outlined: bool
    ) -> None:
        self.draw: ImageDraw.ImageDraw = ImageDraw.Draw(image)
        self.width: int = image.width
        self.height: int = image.height
        self.unit: int = min(image.size)
        self.palette = palette
        self.rng = rng
        self._pen = max(1, self.unit // 300) if outlined else 0

    @property
    def parts(self) -> tuple[random.Random, Palette, int, int]:
        """The random numbers, the palette, and width and height in pixels."""
        return self.rng, self.palette, self.width, self.height

    def sky(self, horizon: float) -> None:
        """Fill from the top to `horizon` (a share of the height) with the sky's three colours."""
        top, middle, low = self.palette.sky
        bottom = int(self.height * horizon) + 1
        steps = min(bottom, 72)
        for step in range(steps):
            share = step / steps * 2
            colour = mix(top, middle, share) if share < 1 else mix(middle, low, share - 1)
            box = (0, bottom * step // steps, self.width, bottom * (step + 1) // steps)
            self.draw.rectangle(box, fill=colour)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        """Draw a shape; with its outline in the styles that have outlines."""
        self.draw.polygon(points, fill=fill)
        if self._pen:
            self.draw.line([*points, points[0]], fill=(20, 20, 28), width=self._pen)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Draw a disc."""
        outline = (20, 20, 28) if self._pen else None
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill=fill, outline=outline, width=max(1, self._pen))

    def light(self, x: float, y: float, radius: float) -> None:
        """Draw a sun or a moon, with a halo that takes up the sky's colour behind it."""
        behind = self.palette.sky[1] if y < self.height * 0.45 else self.palette.sky[2]
        for ring in (2.3, 1.8, 1.4):
            colour = mix(behind, self.palette.light, 0.75 - ring * 0.27)
            self.draw.ellipse(
                (x - radius * ring, y - radius * ring, x + radius * ring, y + radius * ring),
                fill=colour,
            )
        self.disc(x, y, radius, self.palette.light)
