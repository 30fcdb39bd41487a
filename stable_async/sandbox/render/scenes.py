"""Scenes: hills, seas, cities, tiles, facets and cubes, in flat areas of few colours.

The prompt picks the scene where it names one, the style preset picks colours and treatment, and
chance, drawn from a hash, does the rest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["draw_scene"]

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a scene: sky from top to horizon, land from far to near, a light, an accent."""

    sky: tuple[Colour, Colour, Colour]
    land: tuple[Colour, Colour]
    light: Colour
    accent: Colour


def _rgb(*codes: str) -> list[Colour]:
    return [(int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in codes]


def _palette(codes: str) -> Palette:
    top, middle, low, far, near, light, accent = _rgb(*codes.split())
    return Palette((top, middle, low), (far, near), light, accent)


# Sky top, middle, horizon; land far, near; light; accent.
PALETTES = tuple(
    map(
        _palette,
        (
            "1d2b53 7e4a7d f2a65a b86f6b 2a1f3d ffe9c4 e4572e",  # dusk
            "8ecae6 bfe3f0 fdf6e3 9cc5a1 1f4e3d fffdf5 e76f51",  # morning
            "0b132b 1c2541 3a506b 46618a 0b1020 f5f3e7 f4d35e",  # night
            "f6bd60 f7d9a0 fdf0d5 d8946b 5a2a27 fffaf0 2a9d8f",  # desert
            "a8dadc d7efe9 f1faee 7aa6b8 1d3557 ffffff e63946",  # north
            "5f0f40 9a031e fb8b24 a4334a 2b0a1e ffe8b6 fcbf49",  # ember
            "cdb4db ffc8dd fff1e6 b794c4 4a3b63 ffffff 80b918",  # pastel
            "264653 2a9d8f e9c46a 5b9a84 16302f fff6da f4a261",  # lagoon
        ),
    )
)
STYLE_PALETTES = {
    "neon-punk": _palette("0d0221 2b0a5e ff2a9d 5b14a8 0a0118 00f0ff f9f871"),
    "line-art": _palette("fbfaf5 fbfaf5 fbfaf5 e6e3d8 fbfaf5 ffffff 2b2b2b"),
    "analog-film": _palette("6b705c a5a58d e8d8b9 a98467 3a3226 fff1d0 bc4b32"),
    "cinematic": _palette("02182b 12425e e59560 2f5061 08131c ffe3c2 ff9f51"),
    "comic-book": _palette("0077b6 48cae4 ffe066 2a9d3a 14213d ffffff ef233c"),
    "origami": _palette("e8f1f2 f6efe4 fdf8ef f28482 84a59d ffffff f6bd60"),
    "pixel-art": _palette("29366f 3b5dc9 73eff7 38b764 1a1c2c f4f4f4 ffcd75"),
    "photographic": _palette("4a7fb5 9cc3de f3e3cb 8aa399 26382f fff8e6 c8553d"),
    "fantasy-art": _palette("240046 7b2cbf ff9e9e 5a189a 10002b ffe5ec 64dfdf"),
    "anime": _palette("3a86ff 8ecaff fff3f8 7bd389 2d6a4f ffffff ff5d8f"),
}

OUTLINED = {"line-art", "comic-book"}

SCENE_WORDS = {
    "lighthouse": re.compile(r"\blighthouses?\b", re.IGNORECASE),
    "sea": re.compile(
        r"\b(sea|ocean|boats?|ships?|beach|harbou?r|waves?|lake|islands?|fish|whale|sail\w*)\b",
        re.IGNORECASE,
    ),
    "city": re.compile(
        r"\b(city|street|towers?|skyline|buildings?|cars?|train|robots?|cyber\w*|neon|houses?|town)\b",
        re.IGNORECASE,
    ),
    "hills": re.compile(
        r"\b(mountains?|hills?|forest|trees?|fox\w*|deer|valley|castle|sunset|sunrise|meadow|snow\w*|birds?)\b",
        re.IGNORECASE,
    ),
}


def draw_scene(
    width: int, height: int, prompt: str, style: str, chance: random.Random
) -> Image.Image:
    """Return a picture of so many pixels.

    Args:
        width: Pixels.
        height: Pixels.
        prompt: May name what is to be seen.
        style: The style preset; empty for none.
        chance: Decides everything else.
    """
    palette = STYLE_PALETTES.get(style) or chance.choice(PALETTES)
    scene = _choose_scene(prompt, style, chance)
    # Pixel art is painted small, and its pixels are blown up.
    grain = 16 if style == "pixel-art" else 1
    size = (max(1, -(-width // grain)), max(1, -(-height // grain)))
    image = Image.new("RGB", size, palette.sky[0])
    scene(_Canvas(image, palette, chance, outlined=style in OUTLINED))
    if grain > 1:
        image = image.resize((size[0] * grain, size[1] * grain), Image.Resampling.NEAREST)
        image = image.crop((0, 0, width, height))
    if style == "cinematic":
        bar = height // 12
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, width, bar), fill=(0, 0, 0))
        draw.rectangle((0, height - bar, width, height), fill=(0, 0, 0))
    return image


def _choose_scene(prompt: str, style: str, chance: random.Random) -> Callable[[_Canvas], None]:
    by_style = {
        "isometric": _cubes,
        "origami": _facets,
        "low-poly": _facets,
        "3d-model": _cubes,
        "modeling-compound": _tiles,
        "tile-texture": _tiles,
    }
    if style in by_style:
        return by_style[style]
    scenes = {"lighthouse": _lighthouse, "sea": _sea, "city": _city, "hills": _hills}
    named = [scenes[name] for name, words in SCENE_WORDS.items() if words.search(prompt)]
    return chance.choice(named or [*scenes.values(), _hills, _tiles, _facets, _cubes])


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour that is `one`, with a share (0 to 1) of `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


class _Canvas:
    """An image with its palette, its source of chance, and a pen whose unit is the short side."""

    def __init__(
        self, image: Image.Image, palette: Palette, chance: random.Random, *, outlined: bool
    ) -> None:
        self.draw = ImageDraw.Draw(image)
        self.width, self.height = image.size
        self.unit = min(image.size)
        self.palette = palette
        self.chance = chance
        self._pen = max(1, self.unit // 300) if outlined else 0

    def sky(self, horizon: float) -> None:
        """Fill from the top to `horizon` (a share of the height) with the sky's three colours."""
        top, middle, low = self.palette.sky
        bottom = int(self.height * horizon) + 1
        steps = min(bottom, 72)
        for step in range(steps):
            share = step / steps * 2
            colour = _mix(top, middle, share) if share < 1 else _mix(middle, low, share - 1)
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
            colour = _mix(behind, self.palette.light, 0.75 - ring * 0.27)
            self.draw.ellipse(
                (x - radius * ring, y - radius * ring, x + radius * ring, y + radius * ring),
                fill=colour,
            )
        self.disc(x, y, radius, self.palette.light)


def _ridge(canvas: _Canvas, base: float, rise: float, rough: float) -> list[Point]:
    """Return a hilly line from left to right: a few sines over each other."""
    waves = [
        (canvas.chance.uniform(0.6, 1.4) * rough * order, canvas.chance.uniform(0, 6.3), 1 / order)
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


def _hills(canvas: _Canvas) -> None:
    chance, palette, width, height = (
        canvas.chance,
        canvas.palette,
        canvas.width,
        canvas.height,
    )
    canvas.sky(0.75)
    canvas.light(
        width * chance.uniform(0.2, 0.8),
        height * chance.uniform(0.2, 0.42),
        canvas.unit * chance.uniform(0.06, 0.11),
    )
    for _ in range(chance.randrange(3, 7)):
        _bird(canvas)
    layers = chance.randrange(4, 7)
    for layer in range(layers):
        nearness = layer / (layers - 1)
        base = height * (0.5 + 0.32 * nearness)
        ridge = _ridge(canvas, base, height * 0.05 * (1.5 - nearness), chance.uniform(0.8, 1.8))
        fill = _mix(*palette.land, nearness)
        canvas.polygon([*ridge, (width, height), (0, height)], fill)
        if layer >= layers - 2:
            for _ in range(chance.randrange(6, 16)):
                x, y = chance.choice(ridge)
                _tree(canvas, x, y, _mix(fill, palette.land[1], 0.5 + nearness / 4))


def _bird(canvas: _Canvas) -> None:
    x = canvas.width * canvas.chance.uniform(0.1, 0.9)
    y = canvas.height * canvas.chance.uniform(0.08, 0.4)
    span = canvas.unit * canvas.chance.uniform(0.008, 0.018)
    line = [(x - span, y - span / 2), (x, y), (x + span, y - span / 2)]
    canvas.draw.line(line, fill=canvas.palette.land[1], width=max(1, canvas.unit // 350))


def _tree(canvas: _Canvas, x: float, y: float, fill: Colour) -> None:
    size = canvas.unit * canvas.chance.uniform(0.03, 0.075)
    for tier in range(3):
        top, half = y - size * (1.1 - tier * 0.3), size * (0.16 + tier * 0.08)
        canvas.polygon([(x, top), (x - half, top + size * 0.5), (x + half, top + size * 0.5)], fill)


def _sea(canvas: _Canvas, *, lighthouse: bool = False) -> None:
    chance, palette, width, height = (
        canvas.chance,
        canvas.palette,
        canvas.width,
        canvas.height,
    )
    horizon = chance.uniform(0.46, 0.56)
    canvas.sky(horizon)
    x, radius = width * chance.uniform(0.25, 0.75), canvas.unit * chance.uniform(0.08, 0.14)
    canvas.light(x, height * horizon - radius * chance.uniform(0.0, 1.2), radius)
    water = _mix(palette.land[0], palette.sky[1], 0.35)
    canvas.draw.rectangle((0, height * horizon, width, height), fill=water)
    for row in range(9):
        y = height * (horizon + (1 - horizon) * 0.62 * (row / 9) ** 1.3) + canvas.unit * 0.008
        half = radius * (1.0 - 0.06 * row) * chance.uniform(0.5, 1.1)
        box = (x - half, y, x + half, y + canvas.unit * (0.004 + row * 0.0012))
        canvas.draw.rectangle(box, fill=_mix(water, palette.light, 0.75 - row * 0.05))
    if lighthouse:
        _tower_of_light(canvas, horizon)
    else:
        _boat(canvas, width * chance.uniform(0.15, 0.85), height * (horizon + 0.05))
    for layer in range(4):
        nearness = (layer + 1) / 4
        base = height * (horizon + 0.14 + 0.09 * layer)
        swell = _ridge(canvas, base, height * 0.008 * (layer + 1), 4 - layer * 0.6)
        canvas.polygon(
            [*swell, (width, height), (0, height)], _mix(water, palette.land[1], nearness * 0.8)
        )


def _lighthouse(canvas: _Canvas) -> None:
    _sea(canvas, lighthouse=True)


def _boat(canvas: _Canvas, x: float, y: float) -> None:
    size = canvas.unit * canvas.chance.uniform(0.07, 0.11)
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


def _tower_of_light(canvas: _Canvas, horizon: float) -> None:
    side = canvas.chance.choice((0.16, 0.84))
    x, foot = canvas.width * side, canvas.height * (horizon + 0.12)
    size = canvas.unit * canvas.chance.uniform(0.26, 0.34)
    palette = canvas.palette
    top, lamp = foot - size, foot - size * 1.12
    beam = _mix(palette.sky[1], palette.light, 0.45)
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


def _city(canvas: _Canvas) -> None:
    chance, palette, width, height = (
        canvas.chance,
        canvas.palette,
        canvas.width,
        canvas.height,
    )
    canvas.sky(0.85)
    canvas.light(
        width * chance.uniform(0.15, 0.85),
        height * chance.uniform(0.15, 0.35),
        canvas.unit * chance.uniform(0.05, 0.1),
    )
    for layer in range(3):
        nearness = (layer + 1) / 3
        x = -canvas.unit * 0.02
        while x < width:
            wide = canvas.unit * chance.uniform(0.05, 0.12) * (0.7 + nearness * 0.5)
            roof = height * chance.uniform(0.25 + 0.13 * layer, 0.6 + 0.07 * layer)
            _tower(canvas, x, roof, wide, nearness)
            x += wide
    canvas.draw.rectangle((0, height * 0.86, width, height), fill=palette.land[1])


def _tower(canvas: _Canvas, x: float, roof: float, wide: float, nearness: float) -> None:
    chance, palette = canvas.chance, canvas.palette
    fill = _mix(*palette.land, nearness * 0.9)
    corners = [(x, roof), (x + wide, roof), (x + wide, canvas.height), (x, canvas.height)]
    canvas.polygon(corners, fill)
    if chance.random() < 0.3:
        mast = canvas.unit * 0.05
        pen = max(1, canvas.unit // 250)
        canvas.draw.line([(x + wide / 2, roof), (x + wide / 2, roof - mast)], fill=fill, width=pen)
    if nearness < 0.5:
        return
    lit, pitch = _mix(palette.light, palette.accent, 0.35), canvas.unit * 0.024
    columns = int(wide / pitch)
    for row in range(int((canvas.height * 0.86 - roof) / pitch) - 1):
        for column in range(columns):
            if chance.random() < 0.3:
                left = x + (wide - columns * pitch) / 2 + column * pitch + pitch * 0.25
                down = roof + (row + 0.6) * pitch
                box = (left, down, left + pitch * 0.45, down + pitch * 0.55)
                canvas.draw.rectangle(box, fill=lit)


def _tiles(canvas: _Canvas) -> None:
    """Quarter circles, discs and leaves on a grid."""
    chance, palette = canvas.chance, canvas.palette
    colours = [*palette.sky, *palette.land, palette.light, palette.accent]
    side = canvas.unit / chance.choice((4, 5, 6))
    for row in range(math.ceil(canvas.height / side)):
        for column in range(math.ceil(canvas.width / side)):
            x, y = column * side, row * side
            ground, figure, detail = chance.sample(colours, 3)
            canvas.draw.rectangle((x, y, x + side, y + side), fill=ground)
            quarter = chance.randrange(4)
            across, down = x - side * (quarter % 2), y - side * (quarter // 2)
            box = (across, down, across + 2 * side, down + 2 * side)
            match chance.randrange(4):
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


def _facets(canvas: _Canvas) -> None:
    """A sheet of triangles, lit from one corner."""
    chance, palette, width, height = (
        canvas.chance,
        canvas.palette,
        canvas.width,
        canvas.height,
    )
    columns = max(2, round(9 * width / canvas.unit))
    rows = max(2, round(9 * height / canvas.unit))
    points = [
        [
            (
                width
                * (column + (chance.uniform(-0.35, 0.35) if 0 < column < columns else 0))
                / columns,
                height * (row + (chance.uniform(-0.35, 0.35) if 0 < row < rows else 0)) / rows,
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
                ((a, b, c), (b, d, c)) if chance.random() < 0.5 else ((a, b, d), (a, d, c))
            ):
                share = (row / rows + column / columns) / 2 * (len(ramp) - 1) + chance.uniform(
                    -0.4, 0.4
                )
                share = min(max(share, 0), len(ramp) - 1.01)
                fill = _mix(ramp[int(share)], ramp[int(share) + 1], share % 1)
                canvas.polygon(list(triangle), _mix(fill, palette.light, chance.uniform(0, 0.22)))


def _cubes(canvas: _Canvas) -> None:
    """Isometric blocks of several heights, drawn from back to front."""
    chance, palette = canvas.chance, canvas.palette
    canvas.sky(1.0)
    side = canvas.unit / chance.choice((7, 9, 11))
    half, quarter = side * 0.866, side * 0.5
    colours = [*palette.land, palette.accent, palette.sky[1], palette.light]
    for row in range(-2, int(canvas.height / quarter / 3) + 9):
        for column in range(-1, int(canvas.width / half / 2) + 2):
            x = (column * 2 + row % 2) * half
            y = canvas.height * 0.3 + row * quarter * 3 * 0.5
            tall = side * chance.choice((0, 0, 0.5, 1, 1, 1.7))
            fill = chance.choice(colours)
            top = y - tall
            base = y + side * 3
            left, right, front = (x - half, top), (x + half, top), (x, top + quarter)
            canvas.polygon([left, front, (x, base), (x - half, base)], _mix(fill, (0, 0, 0), 0.35))
            canvas.polygon([front, right, (x + half, base), (x, base)], _mix(fill, (0, 0, 0), 0.55))
            canvas.polygon(
                [left, (x, top - quarter), right, front], _mix(fill, (255, 255, 255), 0.15)
            )
