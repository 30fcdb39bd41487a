"""`python -m tests.docs.demo_image` makes docs/demo.jpg: images of the demo, side by side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from tests.docs.blocks import ROOT

COLUMNS, ROWS = 10, 4
SIDE = 128


def main() -> None:
    """Run the demo's first prompts against the sandbox, and lay the images out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prompts = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / "prompts.jsonl").write_text("\n".join(prompts[: COLUMNS * ROWS]), "utf-8")
        command = [sys.executable, "-m", "stable_async", "run", str(folder / "prompts.jsonl")]
        subprocess.run([*command, "--out", str(folder / "demo"), "--sandbox"], check=True)
        wall = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
        for number, path in enumerate(sorted((folder / "demo" / "images").rglob("*.*"))):
            with Image.open(path) as image:
                tile = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), centering=(0.5, 0.35))
            wall.paste(tile, (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
    wall.save(ROOT / "docs" / "demo.jpg", quality=85)


if __name__ == "__main__":
    main()
