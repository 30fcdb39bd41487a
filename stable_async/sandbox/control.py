"""`/` and `/_sandbox`: the page, the figures behind it, and the switches over HTTP.

None of this counts against the quota, is logged, or belongs to the imitated API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, cast

from stable_async.sandbox.answers import Answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stable_async.sandbox.request_log import RequestRecord
    from stable_async.sandbox.service import Service

__all__ = ["control", "is_control"]

PREFIX = "/_sandbox"
SHOWN_REQUESTS = 48
SHOWN_TEXT = 500
SHOWN_SECONDS = 60
MAX_BODY = 64 << 10


def is_control(path: str) -> bool:
    """Whether a path belongs to the sandbox itself and not to the API."""
    return path in {"/", "/favicon.ico"} or path.startswith(f"{PREFIX}/")


def control(service: Service, method: str, path: str, content_type: str, body: bytes) -> Answer:
    """Give the answer to a request of the page or of a test."""
    match method, path:
        case "GET", "/":
            return _page()
        case "GET", "/favicon.ico":
            return Answer(204, "image/x-icon", b"")
        case "GET", "/_sandbox/state":
            return json_answer(200, _state(service))
        case "POST", "/_sandbox/faults":
            return _faults(service, content_type, body)
    number = re.fullmatch(rf"{PREFIX}/thumbnails/(\d{{1,12}})", path)
    thumbnail = service.thumbnails.get(int(number[1])) if number and method == "GET" else None
    if thumbnail:
        return Answer(200, "image/jpeg", thumbnail, {"cache-control": "max-age=3600"})
    return json_answer(404, {"errors": [f"{method} {path[:200]}: not found"]})


def _state(service: Service) -> dict[str, object]:
    settings = service.settings
    now = time.monotonic()
    level, shut_for = service.quota.busiest(now)
    return {
        "statistics": asdict(service.statistics()),
        "settings": {
            name: getattr(settings, name)
            for name in ("counting", "requests", "window", "penalty", "latency")
        },
        "quota": {"level": level, "shut_for": shut_for},
        "now": now,
        "per_second": _per_second(service, now),
        "requests": [_shown(record, service) for record in reversed(service.log[-SHOWN_REQUESTS:])],
    }


def _per_second(service: Service, now: float) -> list[int]:
    """Give the requests of each second of the last minute, the oldest second first."""
    counts = [0] * SHOWN_SECONDS
    for record in reversed(service.log):
        age = int(now - record.arrival)
        if age >= SHOWN_SECONDS:
            break
        counts[SHOWN_SECONDS - 1 - max(age, 0)] += 1
    return counts


def _shown(record: RequestRecord, service: Service) -> dict[str, object]:
    return {
        "number": record.number,
        "arrival": record.arrival,
        "method": record.method,
        "path": record.path[:SHOWN_TEXT],
        "operation": record.operation,
        "key": record.key,
        "fields": {
            name[:SHOWN_TEXT]: text[:SHOWN_TEXT] for name, text in list(record.fields.items())[:32]
        },
        "files": {
            name[:SHOWN_TEXT]: {
                "filename": file.filename[:SHOWN_TEXT],
                "size": file.size,
                "sha256": file.sha256,
            }
            for name, file in list(record.files.items())[:32]
        },
        "headers": dict(record.headers),
        "status": record.status,
        "dropped": record.dropped,
        "duration": record.duration,
        "response_bytes": record.response_bytes,
        "credits": record.credits,
        "seed": record.seed,
        "finish_reason": record.finish_reason,
        "problems": [problem[:SHOWN_TEXT] for problem in record.problems[:32]],
        "thumbnail": (
            f"{PREFIX}/thumbnails/{record.number}" if record.number in service.thumbnails else None
        ),
    }


def _faults(service: Service, content_type: str, body: bytes) -> Answer:
    """Set switches: `{"fail_next": {"status": 500, "times": 2}, "delay": {"seconds": 1}}`."""
    # A page of another site can send a form here, but no JSON without asking first.
    if content_type.partition(";")[0].strip() != "application/json":
        return json_answer(400, {"errors": ["content-type: must be application/json"]})
    faults = service.faults
    switches: dict[str, Callable[..., None]] = {
        "clear": service.clear,
        "fail_next": faults.fail_next,
        "drop_next": faults.drop_next,
        "delay": faults.delay,
        "exhaust_credits": faults.exhaust_credits,
        "penalty": service.penalty,
    }
    try:
        wanted = json.loads(body)
        if not isinstance(wanted, dict) or not wanted or wanted.keys() - switches:
            raise ValueError(f"give an object with any of: {', '.join(switches)}")
        for name, arguments in cast("dict[str, dict[str, Any] | None]", wanted).items():
            switches[name](**(arguments or {}))
    except (ValueError, TypeError, RecursionError) as error:
        return json_answer(400, {"errors": [str(error)]})
    return json_answer(200, {"set": list(wanted)})


def _page() -> Answer:
    page = resources.files(__package__).joinpath("page.html").read_text()
    # Only this very script may run in the page, whatever a prompt may bring in.
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return Answer(200, "text/html; charset=utf-8", page.encode(), headers)
