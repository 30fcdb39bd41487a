"""Patterns: tiles and facets that fill the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stable_async.sandbox.render.canvas import mix

if TYPE_CHECKING:
    from stable_async.sandbox.render.canvas import Canvas

__all__ = ["facets", "tiles"]


def tiles(canvas: Canvas) -> None:
    """Draw quarter circles, discs and leaves on a grid."""
    rng, palette = canvas.rng, canvas.palette
    colours = [*palette.sky, *palette.land, palette.light, palette.accent]
    side = canvas.unit / rng.choice((4, 5, 6))
    for row in range(math.ceil(canvas.height / side)):
        for column in range(math.ceil(canvas.width / side)):
            x, y = column * side, row * side
            ground, figure, detail = rng.sample(colours, 3)
            canvas.draw.rectangle((x, y, x + side, y + side), fill=ground)
            quarter = rng.randrange(4)
            across, down = x - side * (quarter % 2), y - side * (quarter // 2)
            box = (across, down, across + 2 * side, down + 2 * side)
            match rng.randrange(4):
                case 0:
                    canvas.disc(x + side / 2, y + side / 2, side * 0.4, figure)
                    canvas.disc(x + side / 2, y + side / 2, side * 0.18, detail)
                case 1:
                    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
                    del corners[quarter]
                    canvas.polygon(corners, figure)
                case _:
                    start = (0, 90, 270, 180)[quarter]
                    canvas.draw.pieslice(box, start, start + 90, fill=figure)


def facets(canvas: Canvas) -> None:
    """Draw a sheet of triangles, lit from one corner."""
    rng, palette, width, height = canvas.parts
    columns = max(2, round(9 * width / canvas.unit))
    rows = max(2, round(9 * height / canvas.unit))
    points = [
        [
            (
                width
                * (column + (rng.uniform(-0.35, 0.35) if 0 < column < columns else 0))
                / columns,
                height * (row + (rng.uniform(-0.35, 0.35) if 0 < row < rows else 0)) / rows,
            )
            for column in range(columns + 1)
        ]
        for row in range(rows + 1)
    ]
    ramp = [*palette.sky, *palette.land]
    ramp.insert(3, palette.accent)
    for row in range(rows):
        for column in range(columns):
            a, b = points[row][column], points[row][column + 1]
            c, d = points[row + 1][column], points[row + 1][column + 1]
            for triangle in (
                ((a, b, c), (b, d, c)) if rng.random() < 0.5 else ((a, b, d), (a, d, c))
            ):
                share = (row / rows + column / columns) / 2 * (len(ramp) - 1) + rng.uniform(
                    -0.4, 0.4
                )
                share = min(max(share, 0), len(ramp) - 1.01)
                fill = mix(ramp[int(share)], ramp[int(share) + 1], share % 1)
                canvas.polygon(list(triangle), mix(fill, palette.light, rng.uniform(0, 0.22)))
