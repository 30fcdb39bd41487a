"""The report: a page of fixed HTML, style and script that embeds the job as JSON."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from stable_async.api.services import UNPRICED
from stable_async.config import Quota
from stable_async.datasets.near_duplicates import NearDuplicates
from stable_async.errors import ConfigurationError
from stable_async.files import write_atomically
from stable_async.jobs.estimate import DOLLARS_PER_CREDIT
from stable_async.jobs.job_view import JobView, reading_job
from stable_async.jobs.kinds import IMAGE, kind_of
from stable_async.jobs.row import text_of, to_json
from stable_async.report.thumbnails import Thumbnail, thumbnails
from stable_async.report.timeline import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_ROWS", "REPORT_NAME", "write_report"]

REPORT_NAME = "report.html"
# Maximum rows in the page: with more it is slow to open. The figures always cover all rows.
MOST_ROWS = 50_000
# Maximum images embedded in the page; the others are links to files beside it.
THUMBNAILS = 500
ROWS_AT_A_TIME = 100


def write_report(*sources: str | Path, to: Path | None = None, most_rows: int = MOST_ROWS) -> Path:
    """Write the report of a job, and return its path.

    Images are shown from where they are on this machine; the first ones as embedded thumbnails if
    Pillow is installed, grouped by similarity if ImageHash is. This blocks.

    Args:
        sources: The folder of the job, those of all its parts, or the URL of its images. The job
            may be running.
        to: The file, `.html`; an existing one is replaced. `None` means `report.html` in the
            folder, if there is only one.
        most_rows: Maximum rows in the contact sheet. The figures always cover all rows.

    Raises:
        ConfigurationError: `to` is missing, or may be something else than a report.
        JobError: A source is not a job, or they are not parts of one job.
        OSError: The report cannot be written.
    """
    if to is not None and to.suffix.lower() not in {".html", ".htm"}:
        raise ConfigurationError(f"to is {str(to)!r}; allowed: a name that ends in .html")
    with reading_job(sources) as view:
        if to is None:
            if len(sources) != 1 or not view.folders:
                raise ConfigurationError(
                    "to is missing: a report of several folders, or of a bucket, needs a file"
                )
            to = view.folders[0] / REPORT_NAME
        return write_atomically(to, _page(view, to, most_rows))


def _page(view: JobView, to: Path, most_rows: int) -> Iterator[bytes]:
    page, style, script = _part("page.html"), _part("page.css"), _part("page.js")
    policy = (
        "default-src 'none'; img-src 'self' file: data:; media-src 'self' file:; "
        "base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    fixed = {"POLICY": policy, "STYLE": style, "SCRIPT": script}
    for text in page.split("%%"):
        match text:
            case "POLICY" | "STYLE" | "SCRIPT":
                yield fixed[text].encode()
            case "FACTS":
                yield _json(_facts(view))
            case "ROWS":
                yield from _rows(view, to, most_rows)
            case _:
                yield text.encode()


def _facts(view: JobView) -> dict[str, object]:
    quota, ledger = Quota(), view.ledger
    first = next(ledger.images(), None)
    kind = IMAGE if first is None else kind_of(first[2].content_type)
    bill = ledger.bill()
    departures, spending = ledger.departures(), ledger.spending()
    return {
        "title": view.name,
        "written": int(time.time()),
        "counts": ledger.report_counts(),
        "credits": bill.spent,
        "credits_in_doubt": bill.in_doubt,
        "dollars_per_credit": DOLLARS_PER_CREDIT,
        "kind": asdict(kind),
        "sandbox": view.is_of_sandbox,
        "spending": spending,
        "assumed": sorted({service for service, *_ in spending if service in UNPRICED}),
        "failures": list(ledger.failures_by_reason(gone=True).items()),
        "requests": sum(requests for _, requests, _ in departures),
        "rate_limited": sum(limited for _, _, limited in departures),
        "ceiling": quota.requests,
        "window": quota.window,
        "runs": [
            asdict(run)
            for run in runs(departures or ledger.sent_seconds(), round(quota.window))
        ],
        "columns": [
            "id", "text", "service", "state", "file", "width", "height", "seed", "credits",
            "error", "more", "thumbnail", "alike",
        ],
    }  # fmt: skip


def _rows(view: JobView, to: Path, most: int) -> Iterator[bytes]:
    """Yield a JSON array of rows; a value that repeats that of the previous row is `0`."""
    rows, beside = view.ledger.report_rows(most), to.absolute().parent
    separator, left, number = "[", THUMBNAILS, 0
    before: tuple[object, ...] = (None, None)
    alike = _Alike()
    while some := list(islice(rows, ROWS_AT_A_TIME)):
        paths = [view.path(row[-1], row[7]) if row[7] else None for row in some]
        wanted = [path for path in paths[:left] if path is not None]
        left -= len(wanted)
        small = dict(zip(wanted, thumbnails(wanted), strict=True))
        for row, path in zip(some, paths, strict=True):
            identity, service, state, parameters, metadata, error, reason, *facts = row
            fields = {**json.loads(parameters), **json.loads(metadata or "{}")}
            text = text_of(fields)
            fields.pop("prompt", None)
            more = {name: _shown(value) for name, value in fields.items()}
            _, width, height, seed, cost, sha256, _ = facts
            thumbnail = small.get(path) if path else None
            link = None
            if path is not None:
                relative = Path(os.path.relpath(path.absolute(), beside)).as_posix()
                link = quote(os.fsencode(relative))
            now = (text, more)
            shown = [0 if value == last else value for value, last in zip(now, before, strict=True)]
            values = [
                identity, shown[0], service, state, link, width, height, seed, cost,
                error or reason, shown[1], thumbnail and thumbnail.url,
                alike.first(number, sha256, thumbnail),
            ]  # fmt: skip
            before = now
            yield separator.encode() + _json(values)
            separator = ",\n"
            number += 1
    yield b"[]" if separator == "[" else b"]"


class _Alike:
    """Finds the first row with the same bytes, or with an image that looks alike."""

    def __init__(self) -> None:
        self._same: dict[str, int] = {}
        self._near = NearDuplicates()

    def first(self, number: int, sha256: str | None, thumbnail: Thumbnail | None) -> int | None:
        if sha256 is None:
            return None
        if sha256 in self._same:
            return self._same[sha256]
        first = None
        if thumbnail is not None and thumbnail.hash is not None:
            first = self._near.add(number, thumbnail.hash)
        self._same[sha256] = number if first is None else first
        return first


def _json(value: object) -> bytes:
    """Return JSON that is safe in a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # The name of a folder may not be UTF-8.
    return text.replace("<", "\\u003c").encode(errors="backslashreplace")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)


@cache
def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
