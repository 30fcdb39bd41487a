"""Images that look alike, by a perceptual hash: `pHash` of ImageHash, 64 bits."""

from __future__ import annotations

import io
import itertools
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from stable_async.datasets.media_files import Damage
from stable_async.extras import install_command
from stable_async.jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from stable_async.datasets.media_files import MediaFiles
    from stable_async.datasets.records import Record

__all__ = ["MOST_BITS", "NearDuplicates", "find_near_duplicates", "perceptual_hash"]

# Images whose hashes differ in at most this many bits look alike: the same scene, recompressed or
# scaled. Images of different prompts differ in 20 or more, 32 on average.
MOST_BITS = 4
BITS = 64
# Two hashes that differ in at most `MOST_BITS` have one of this many parts in common.
PARTS = MOST_BITS + 1

LINE = re.compile(r"^([0-9a-f]{64}) ([0-9a-f]{16})$", re.MULTILINE)


def perceptual_hash() -> Callable[[bytes], int | None]:
    """Return a function from the bytes of an image to its hash; `None` for what is not an image.

    Raises:
        JobError: ImageHash is not installed.
    """
    try:
        import imagehash
        from PIL import Image
    except ImportError:
        raise JobError(f"near duplicates need ImageHash: {install_command('dedupe')}") from None

    def hash_of(data: bytes) -> int | None:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (BITS, BITS))
                return int(str(imagehash.phash(image)), 16)
        # Pillow raises many kinds of errors for damaged files.
        except Exception:  # noqa: BLE001
            return None

    return hash_of


def find_near_duplicates(
    records: Iterable[Record], files: MediaFiles, known: Path
) -> frozenset[int]:
    """Return the numbers of records whose image looks like an earlier one.

    The file `known` has the hashes of earlier exports by SHA-256, and is updated.

    Raises:
        JobError: ImageHash is not installed.
    """
    hash_image = perceptual_hash()
    text = known.read_text(encoding="utf-8") if known.exists() else ""
    # An export that was killed may have cut the last line short.
    hashes = {sha256: int(value, 16) for sha256, value in LINE.findall(text)}

    def hash_of(record: Record) -> int | None:
        if record.image.sha256 in hashes:
            return hashes[record.image.sha256]
        data = files.read_one(record)
        return None if isinstance(data, Damage) else hash_image(data)

    seen, found = NearDuplicates(), set()
    with known.open("a", encoding="utf-8") as file:
        for record, value in files.process(records, hash_of):
            if value is None:
                continue
            if record.image.sha256 not in hashes:
                hashes[record.image.sha256] = value
                file.write(f"\n{record.image.sha256} {value:016x}\n")
            if seen.add(record.number, value) is not None:
                found.add(record.number)
    return frozenset(found)


class NearDuplicates:
    """Hashes seen so far, indexed by their parts. About 500 bytes for each."""

    def __init__(self) -> None:
        self._parts: list[dict[int, list[tuple[int, int]]]] = [
            defaultdict(list) for _ in range(PARTS)
        ]

    def add(self, number: int, value: int) -> int | None:
        """Return the first one that is like `value`; if there is none, store it under `number`."""
        keys = _keys(value)
        for part, key in zip(self._parts, keys, strict=True):
            for other, seen in part.get(key, ()):
                if (seen ^ value).bit_count() <= MOST_BITS:
                    return other
        for part, key in zip(self._parts, keys, strict=True):
            part[key].append((number, value))
        return None


def _keys(value: int) -> list[int]:
    """Return the parts of a hash, of 12 and 13 bits."""
    edges = [BITS * place // PARTS for place in range(PARTS + 1)]
    return [value >> low & (1 << high - low) - 1 for low, high in itertools.pairwise(edges)]
