"""The benchmark as a drawing: each limiter's arrivals and the counts they make, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from benchmarks import quota_counting as counting
from benchmarks.quota_limiters import REQUESTS, WINDOW

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.quota_counting import Times

__all__ = ["draw"]

COLUMNS = 2
WIDTH, HEIGHT = 430, 128  # of the plot inside a panel
LEFT, TOP, GAP_X, GAP_Y, HEAD = 46, 92, 62, 74, 30
SECONDS, MOST = 45.0, 320.0
STEP = 0.15

INK, FAINT, GRID = "#1f2933", "#66727f", "#e4e8ec"
KEPT, KEPT_LIGHT = "#0f766e", "#99d5cd"
OVER, OVER_LIGHT = "#c2341d", "#f6b8a6"


def draw(runs: dict[str, list[float]], path: Path) -> None:
    """Write one panel for each limiter of `runs`, by its arrivals, to `path`."""
    rows = -(-len(runs) // COLUMNS)
    width = LEFT + COLUMNS * WIDTH + (COLUMNS - 1) * GAP_X + 24
    height = TOP + rows * (HEAD + HEIGHT) + (rows - 1) * GAP_Y + 46
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        ),
        "<title>Requests in the last ten seconds, per limiter, against the ceiling of 150</title>",
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
        _text(24, 36, "600 requests through a quota of 150 in 10 s", size=19, weight=600),
        _text(24, 58, "Requests that a server counts in the last 10 s, at any moment", FAINT),
        *_key(width - 24, 58),
    ]
    for number, (name, arrivals) in enumerate(runs.items()):
        x = LEFT + number % COLUMNS * (WIDTH + GAP_X)
        y = TOP + number // COLUMNS * (HEAD + HEIGHT + GAP_Y)
        parts += _panel(x, y, name, np.array(arrivals))
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _key(right: float, y: float) -> list[str]:
    start = right - 470
    strokes = "".join(f"M{start + x} {y - 8}v8" for x in range(2, 22, 4))
    return [
        f'<path d="{strokes}" stroke="{INK}"/>',
        _text(start + 30, y, "an arrival"),
        f'<rect x="{start + 106}" y="{y - 9}" width="22" height="10" fill="{KEPT_LIGHT}"/>',
        _text(start + 136, y, "sliding window"),
        f'<path d="M{start + 240} {y - 4}h22" stroke="{KEPT}" stroke-width="2"/>',
        _text(start + 270, y, "two counters, at their worst phase"),
    ]


def _panel(left: float, top: float, name: str, arrivals: Times) -> list[str]:
    times = np.arange(0, SECONDS + STEP / 2, STEP)
    window = _up_to(arrivals, times) - _up_to(arrivals, times - WINDOW)
    two = _two_counters(arrivals, times)
    most = max(counting.log(arrivals, WINDOW), counting.worst_counter(arrivals, WINDOW))
    over = most > REQUESTS
    base = top + HEAD + HEIGHT
    ceiling = base - REQUESTS / MOST * HEIGHT
    clip = f"c{int(left)}-{int(top)}"
    verdict = f"most {most:.4g}" + (", breach" if over else ", kept")
    parts = [
        _text(left, top + 14, name, size=14, weight=600),
        _text(left + WIDTH, top + 14, verdict, OVER if over else KEPT, 14, 600, "end"),
        (
            f'<clipPath id="{clip}"><rect x="{left}" y="{top + HEAD}" width="{WIDTH}" '
            f'height="{ceiling - top - HEAD}"/></clipPath>'
        ),
    ]
    for count in (0, 150, 300):
        y = base - count / MOST * HEIGHT
        parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="{GRID}"/>')
        colour, weight = (INK, 600) if count == REQUESTS else (FAINT, 400)
        parts.append(_text(left - 8, y + 4, str(count), colour, weight=weight, anchor="end"))
    area = _path(left, base, times, window) + f"V{base}H{left}Z"
    line = _path(left, base, times, two)
    parts += [
        f'<path d="{area}" fill="{KEPT_LIGHT}"/>',
        f'<path d="{line}" fill="none" stroke="{KEPT}" stroke-width="1.5"/>',
        (
            f'<g clip-path="url(#{clip})"><path d="{area}" fill="{OVER_LIGHT}"/>'
            f'<path d="{line}" fill="none" stroke="{OVER}" stroke-width="1.8"/></g>'
        ),
        (
            f'<path d="M{left} {ceiling:.1f}h{WIDTH}" stroke="{INK}" stroke-width="1.2" '
            f'stroke-dasharray="5 4"/>'
        ),
    ]
    # Each arrival is a stroke below the axis.
    scale = WIDTH / SECONDS
    strokes = "".join(f"M{left + time * scale:.1f} {base + 4}v7" for time in arrivals.tolist())
    parts.append(f'<path d="{strokes}" stroke="{INK}" stroke-width=".6" stroke-opacity=".55"/>')
    for second in range(0, int(SECONDS) + 1, 10):
        label = f"{second} s" if second else "0"
        parts.append(_text(left + second * scale, base + 26, label, FAINT, anchor="middle"))
    return parts


def _two_counters(arrivals: Times, times: Times) -> Times:
    """Return the estimate of two counters at each of `times`, at the phase that shows most."""
    most = np.zeros(len(times))
    total = _up_to(arrivals, times)
    for elapsed in np.arange(0, WINDOW, STEP):
        start = _up_to(arrivals, times - elapsed)
        before = start - _up_to(arrivals, times - elapsed - WINDOW)
        most = np.maximum(most, total - start + before * (1 - elapsed / WINDOW))
    return most


def _up_to(arrivals: Times, times: Times) -> Times:
    return np.searchsorted(arrivals, times, side="right").astype(float)


def _path(left: float, base: float, times: Times, counts: Times) -> str:
    points = zip(
        left + times / SECONDS * WIDTH, base - np.minimum(counts, MOST) / MOST * HEIGHT, strict=True
    )
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(
    x: float,
    y: float,
    content: str,
    fill: str = INK,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(content)}</text>'
    )
