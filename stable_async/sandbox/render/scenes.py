"""The choice of a scene: by the prompt if it names one, by the style preset, else by a hash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from stable_async.sandbox.render.canvas import Canvas, Colour, Palette
from stable_async.sandbox.render.landscapes import city, hills, lighthouse, sea
from stable_async.sandbox.render.patterns import facets, tiles

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["draw_scene"]


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
FACETED = {"origami", "low-poly", "3d-model"}
TILED = {"isometric", "modeling-compound", "tile-texture"}

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


def draw_scene(width: int, height: int, prompt: str, style: str, rng: random.Random) -> Image.Image:
    """Return an image of this size.

    Args:
        width: Pixels.
        height: Pixels.
        prompt: May name the scene.
        style: The style preset; empty for none.
        rng: Source of everything else.
    """
    palette = STYLE_PALETTES.get(style) or rng.choice(PALETTES)
    scene = _choose_scene(prompt, style, rng)
    # Pixel art is painted small and enlarged.
    grain = 16 if style == "pixel-art" else 1
    size = (max(1, -(-width // grain)), max(1, -(-height // grain)))
    image = Image.new("RGB", size, palette.sky[0])
    scene(Canvas(image, palette, rng, outlined=style in OUTLINED))
    if grain > 1:
        image = image.resize((size[0] * grain, size[1] * grain), Image.Resampling.NEAREST)
        image = image.crop((0, 0, width, height))
    if style == "cinematic":
        bar = height // 12
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, width, bar), fill=(0, 0, 0))
        draw.rectangle((0, height - bar, width, height), fill=(0, 0, 0))
    return image


def _choose_scene(prompt: str, style: str, rng: random.Random) -> Callable[[Canvas], None]:
    if style in FACETED:
        return facets
    if style in TILED:
        return tiles
    scenes = {"lighthouse": lighthouse, "sea": sea, "city": city, "hills": hills}
    named = [scenes[name] for name, words in SCENE_WORDS.items() if words.search(prompt)]
    return rng.choice(named or [*scenes.values(), hills, tiles, facets])
