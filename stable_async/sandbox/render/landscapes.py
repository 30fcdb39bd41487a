"""Landscapes: hills, seas with a boat or a lighthouse, and cities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stable_async.sandbox.render.canvas import mix

if TYPE_CHECKING:
    from stable_async.sandbox.render.canvas import Canvas, Colour, Point

__all__ = ["city", "hills", "lighthouse", "sea"]


def _ridge(canvas: Canvas, base: float, rise: float, rough: float) -> list[Point]:
    """Return a hilly line from left to right: a sum of a few sines."""
    waves = [
        (canvas.rng.uniform(0.6, 1.4) * rough * order, canvas.rng.uniform(0, 6.3), 1 / order)
        for order in (1, 2.3, 5.1)
    ]
    step = max(2, canvas.width // 120)
    return [
        (
            x,
            base - rise * sum(h * math.sin(f * 6.3 * x / canvas.width + p) for f, p, h in waves),
        )
        for x in range(0, canvas.width + step, step)
    ]


def hills(canvas: Canvas) -> None:
    """Draw ranges of hills with trees and birds."""
    rng, palette, width, height = canvas.parts
    canvas.sky(0.75)
    canvas.light(
        width * rng.uniform(0.2, 0.8),
        height * rng.uniform(0.2, 0.42),
        canvas.unit * rng.uniform(0.06, 0.11),
    )
    for _ in range(rng.randrange(3, 7)):
        _bird(canvas)
    layers = rng.randrange(4, 7)
    for layer in range(layers):
        nearness = layer / (layers - 1)
        base = height * (0.5 + 0.32 * nearness)
        ridge = _ridge(canvas, base, height * 0.05 * (1.5 - nearness), rng.uniform(0.8, 1.8))
        fill = mix(*palette.land, nearness)
        canvas.polygon([*ridge, (width, height), (0, height)], fill)
        if layer >= layers - 2:
            for _ in range(rng.randrange(6, 16)):
                x, y = rng.choice(ridge)
                _tree(canvas, x, y, mix(fill, palette.land[1], 0.5 + nearness / 4))


def _bird(canvas: Canvas) -> None:
    x = canvas.width * canvas.rng.uniform(0.1, 0.9)
    y = canvas.height * canvas.rng.uniform(0.08, 0.4)
    span = canvas.unit * canvas.rng.uniform(0.008, 0.018)
    line = [(x - span, y - span / 2), (x, y), (x + span, y - span / 2)]
    canvas.draw.line(line, fill=canvas.palette.land[1], width=max(1, canvas.unit // 350))


def _tree(canvas: Canvas, x: float, y: float, fill: Colour) -> None:
    size = canvas.unit * canvas.rng.uniform(0.03, 0.075)
    for tier in range(3):
        top, half = y - size * (1.1 - tier * 0.3), size * (0.16 + tier * 0.08)
        canvas.polygon([(x, top), (x - half, top + size * 0.5), (x + half, top + size * 0.5)], fill)


def sea(canvas: Canvas, *, with_lighthouse: bool = False) -> None:
    """Draw a sea under a low sun, with a boat or a lighthouse."""
    rng, palette, width, height = canvas.parts
    horizon = rng.uniform(0.46, 0.56)
    canvas.sky(horizon)
    x, radius = width * rng.uniform(0.25, 0.75), canvas.unit * rng.uniform(0.08, 0.14)
    canvas.light(x, height * horizon - radius * rng.uniform(0.0, 1.2), radius)
    water = mix(palette.land[0], palette.sky[1], 0.35)
    canvas.draw.rectangle((0, height * horizon, width, height), fill=water)
    for row in range(9):
        y = height * (horizon + (1 - horizon) * 0.62 * (row / 9) ** 1.3) + canvas.unit * 0.008
        half = radius * (1.0 - 0.06 * row) * rng.uniform(0.5, 1.1)
        box = (x - half, y, x + half, y + canvas.unit * (0.004 + row * 0.0012))
        canvas.draw.rectangle(box, fill=mix(water, palette.light, 0.75 - row * 0.05))
    if with_lighthouse:
        _lighthouse(canvas, horizon)
    else:
        _boat(canvas, width * rng.uniform(0.15, 0.85), height * (horizon + 0.05))
    for layer in range(4):
        nearness = (layer + 1) / 4
        base = height * (horizon + 0.14 + 0.09 * layer)
        swell = _ridge(canvas, base, height * 0.008 * (layer + 1), 4 - layer * 0.6)
        canvas.polygon(
            [*swell, (width, height), (0, height)], mix(water, palette.land[1], nearness * 0.8)
        )


def lighthouse(canvas: Canvas) -> None:
    """Draw a sea with a lighthouse."""
    sea(canvas, with_lighthouse=True)


def _boat(canvas: Canvas, x: float, y: float) -> None:
    size = canvas.unit * canvas.rng.uniform(0.07, 0.11)
    palette = canvas.palette
    canvas.polygon(
        [
            (x - size, y),
            (x + size, y),
            (x + size * 0.6, y + size * 0.4),
            (x - size * 0.7, y + size * 0.4),
        ],
        palette.land[1],
    )
    canvas.polygon(
        [(x, y - size * 1.9), (x, y - size * 0.1), (x + size * 0.9, y - size * 0.1)], palette.light
    )
    canvas.polygon(
        [
            (x - size * 0.08, y - size * 1.6),
            (x - size * 0.08, y - size * 0.1),
            (x - size * 0.7, y - size * 0.1),
        ],
        palette.accent,
    )


def _lighthouse(canvas: Canvas, horizon: float) -> None:
    side = canvas.rng.choice((0.16, 0.84))
    x, foot = canvas.width * side, canvas.height * (horizon + 0.12)
    size = canvas.unit * canvas.rng.uniform(0.26, 0.34)
    palette = canvas.palette
    top, lamp = foot - size, foot - size * 1.12
    beam = mix(palette.sky[1], palette.light, 0.45)
    away = canvas.width * (0.9 if side < 0.5 else -0.9)
    canvas.draw.polygon(
        [(x, lamp + size * 0.05), (x + away, lamp - size * 0.35), (x + away, lamp + size * 0.12)],
        fill=beam,
    )
    rock = [(x - size * 0.7, foot + size * 0.3), (x - size * 0.3, foot - size * 0.06)]
    rock += [(x + size * 0.25, foot - size * 0.1), (x + size * 0.75, foot + size * 0.3)]
    bands = 5
    for band in range(bands):
        upper, lower = top + size * band / bands, top + size * (band + 1) / bands
        wide, wider = size * (0.075 + 0.012 * band), size * (0.087 + 0.012 * band)
        fill = palette.accent if band % 2 == 0 else palette.light
        canvas.polygon(
            [(x - wide, upper), (x + wide, upper), (x + wider, lower), (x - wider, lower)], fill
        )
    canvas.polygon(rock, palette.land[1])
    canvas.draw.rectangle((x - size * 0.06, lamp, x + size * 0.06, top), fill=palette.light)
    canvas.polygon(
        [(x - size * 0.09, lamp), (x, lamp - size * 0.1), (x + size * 0.09, lamp)], palette.land[1]
    )


def city(canvas: Canvas) -> None:
    """Draw a skyline with lit windows."""
    rng, palette, width, height = canvas.parts
    canvas.sky(0.85)
    canvas.light(
        width * rng.uniform(0.15, 0.85),
        height * rng.uniform(0.15, 0.35),
        canvas.unit * rng.uniform(0.05, 0.1),
    )
    for layer in range(3):
        nearness = (layer + 1) / 3
        x = -canvas.unit * 0.02
        while x < width:
            wide = canvas.unit * rng.uniform(0.05, 0.12) * (0.7 + nearness * 0.5)
            roof = height * rng.uniform(0.25 + 0.13 * layer, 0.6 + 0.07 * layer)
            _tower(canvas, x, roof, wide, nearness)
            x += wide
    canvas.draw.rectangle((0, height * 0.86, width, height), fill=palette.land[1])


def _tower(canvas: Canvas, x: float, roof: float, wide: float, nearness: float) -> None:
    rng, palette = canvas.rng, canvas.palette
    fill = mix(*palette.land, nearness * 0.9)
    corners = [(x, roof), (x + wide, roof), (x + wide, canvas.height), (x, canvas.height)]
    canvas.polygon(corners, fill)
    if rng.random() < 0.3:
        mast = canvas.unit * 0.05
        pen = max(1, canvas.unit // 250)
        canvas.draw.line([(x + wide / 2, roof), (x + wide / 2, roof - mast)], fill=fill, width=pen)
    if nearness < 0.5:
        return
    lit, pitch = mix(palette.light, palette.accent, 0.35), canvas.unit * 0.024
    columns = int(wide / pitch)
    for row in range(int((canvas.height * 0.86 - roof) / pitch) - 1):
        for column in range(columns):
            if rng.random() < 0.3:
                left = x + (wide - columns * pitch) / 2 + column * pitch + pitch * 0.25
                down = roof + (row + 0.6) * pitch
                box = (left, down, left + pitch * 0.45, down + pitch * 0.55)
                canvas.draw.rectangle(box, fill=lit)
