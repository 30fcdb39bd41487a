"""`/` and `/_sandbox`: the page, the figures behind it, and the controls over HTTP.

None of this counts against the quota, is logged, or belongs to the imitated API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, fields
from importlib import resources
from typing import TYPE_CHECKING, cast

from stable_async.sandbox.answers import Answer, json_answer
from stable_async.sandbox.edge import EDGE_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.sandbox.account import Account
    from stable_async.sandbox.request_log import RequestRecord
    from stable_async.sandbox.service import Service

__all__ = ["control", "is_control", "needs_token"]

PREFIX = "/_sandbox"
SHOWN_REQUESTS = 96
SHOWN_RUNNING = 8
SHOWN_TEXT = 500
SHOWN_PARTS = 32
SHOWN_SECONDS = 60
# A scripted answer may carry an image.
MAX_BODY = 16 << 20


def is_control(path: str) -> bool:
    """Whether a path belongs to the sandbox itself, not to the API."""
    return path in {"/", "/favicon.ico"} or path.startswith(f"{PREFIX}/")


def needs_token(path: str) -> bool:
    """Whether a path shows or changes state; the page alone does neither."""
    return path.startswith(f"{PREFIX}/") and path != f"{PREFIX}/health"


def control(
    service: Service,
    unreachable: Callable[[float], None],
    method: str,
    path: str,
    content_type: str,
    body: bytes,
) -> Answer:
    """Return the answer to a request of the page or of a test.

    Args:
        service: The service to show or change.
        unreachable: Refuses connections for a number of seconds.
        method: HTTP method.
        path: Path of the request.
        content_type: Content type of the body.
        body: The body, or more than `MAX_BODY` bytes of it.
    """
    account = service.account
    match method, path:
        case "GET", "/":
            return _page()
        case "GET", "/favicon.ico":
            return Answer(204, "image/x-icon", b"")
        case "GET", "/_sandbox/health":
            return json_answer(200, {"status": "ok"})
        case "GET", "/_sandbox/state":
            return json_answer(200, _state(account))
        case "GET", "/_sandbox/bill":
            return json_answer(200, _bill(account))
        case "GET", "/_sandbox/clock":
            clock = account.clock
            return json_answer(200, {"now": clock.now(), "advanced": clock.advanced})
        case "POST", "/_sandbox/faults":
            return _apply(_switches(account, unreachable), content_type, body)
        case "POST", "/_sandbox/clock":
            return _apply({"advance": account.clock.advance}, content_type, body)
        case "POST", "/_sandbox/reset":
            return _apply({"reset": service.reset}, content_type, body or b'{"reset":{}}')
    number = re.fullmatch(rf"{PREFIX}/thumbnails/(\d{{1,12}})", path)
    thumbnail = account.thumbnails.get(int(number[1])) if number and method == "GET" else None
    if thumbnail:
        return Answer(200, "image/jpeg", thumbnail, [("cache-control", "max-age=3600")])
    return json_answer(404, {"errors": [f"{method} {path[:200]}: not found"]})


def _state(account: Account) -> dict[str, object]:
    settings = account.settings
    now = account.clock.now()
    level, penalty_left = account.quota.busiest(now)
    return {
        "statistics": asdict(account.statistics()),
        "settings": {
            name: getattr(settings, name)
            for name in ("counting", "requests", "window", "penalty", "latency")
        },
        "quota": {"level": level, "penalty_left": penalty_left},
        "now": now,
        "per_second": _per_second(account, now),
        **_requests(account),
    }


def _requests(account: Account) -> dict[str, object]:
    """Return the last finished requests, newest first, and the oldest running ones."""
    records = list(account.log)
    running = [record for record in records if record.duration is None]
    finished = [record for record in reversed(records) if record.duration is not None]
    return {
        "running": [
            {
                "number": record.number,
                "operation": record.operation or _cut(record.path),
                "prompt": _cut(record.fields.get("prompt", "")),
                "arrival": record.arrival,
            }
            for record in running[:SHOWN_RUNNING]
        ],
        "requests": [_shown(record, account) for record in finished[:SHOWN_REQUESTS]],
    }


def _bill(account: Account) -> dict[str, object]:
    bill = account.bill
    callers = [
        {
            **asdict(caller),
            **asdict(
                bill.charges(key=caller.key, client_id=caller.client_id, user_id=caller.user_id)
            ),
        }
        for caller in bill.callers()
    ]
    return {"credits": bill.spent, "callers": callers}


def _per_second(account: Account, now: float) -> list[int]:
    """Return the requests of each second of the last minute, the oldest second first."""
    counts = [0] * SHOWN_SECONDS
    for record in reversed(account.log):
        age = int(now - record.arrival)
        if age >= SHOWN_SECONDS:
            break
        counts[SHOWN_SECONDS - 1 - max(age, 0)] += 1
    return counts


def _shown(record: RequestRecord, account: Account) -> dict[str, object]:
    """Return a record, with long text cut and without the contents of its files."""
    shown = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        **shown,
        "path": _cut(record.path),
        "fields": {_cut(name): _cut(text) for name, text in [*record.fields.items()][:SHOWN_PARTS]},
        "files": {
            _cut(name): {
                "filename": _cut(file.filename),
                "size": file.size,
                "sha256": file.sha256,
            }
            for name, file in [*record.files.items()][:SHOWN_PARTS]
        },
        "problems": [*map(_cut, record.problems[:SHOWN_PARTS])],
        "thumbnail": (
            f"{PREFIX}/thumbnails/{record.number}" if record.number in account.thumbnails else None
        ),
    }


def _cut(text: str) -> str:
    return text[:SHOWN_TEXT]


def _switches(
    account: Account, unreachable: Callable[[float], None]
) -> dict[str, Callable[..., None]]:
    faults = account.faults

    return {
        "clear": account.clear,
        "fail_next": faults.fail_next,
        "edge": faults.edge,
        "drop_next": faults.drop_next,
        "delay": faults.delay,
        "respond": _with_bytes(faults.respond, "body"),
        "produce": _with_bytes(faults.produce, "data"),
        "keep_running": faults.keep_running,
        "exhaust_credits": faults.exhaust_credits,
        "penalty": account.penalty,
        "unreachable": unreachable,
    }


def _with_bytes(act: Callable[..., None], name: str) -> Callable[..., None]:
    """Decode the argument `name`, which is base64 in JSON."""

    def decode_and_act(**words: object) -> None:
        encoded = words.pop(f"{name}_base64", None)
        if encoded is not None:
            words[name] = base64.b64decode(str(encoded), validate=True)
        act(**words)

    return decode_and_act


def _apply(switches: dict[str, Callable[..., None]], content_type: str, body: bytes) -> Answer:
    """Set switches: `{"fail_next": {"status": 500, "times": 2}, "delay": {"seconds": 1}}`."""
    # A page of another site can send a form here, but not JSON without a preflight request.
    if content_type.partition(";")[0].strip() != "application/json":
        return json_answer(400, {"errors": ["content-type: must be application/json"]})
    try:
        if len(body) > MAX_BODY:
            raise ValueError(f"body: must have at most {MAX_BODY} bytes")
        wanted = json.loads(body)
        if not isinstance(wanted, dict) or not wanted or wanted.keys() - switches:
            raise ValueError(f"allowed: an object with any of: {', '.join(switches)}")
        for name, words in cast("dict[str, object]", wanted).items():
            if words is not None and not isinstance(words, dict):
                raise ValueError(f"{name}: must be an object of arguments")
            if words and "when" in words and name != "drop_next":
                raise ValueError(f"{name}: when is a function, for Python only")
            switches[name](**(words or {}))
    except (ValueError, TypeError, RecursionError) as error:
        return json_answer(400, {"errors": [str(error)]})
    return json_answer(200, {"set": list(wanted)})


def _page() -> Answer:
    page = resources.files(__package__).joinpath("dashboard.html").read_text()
    kinds = "".join(f"<li><code>{f.name}</code> {f.about}</li>" for f in EDGE_FAULTS.values())
    page = page.replace("<!-- edge faults -->", kinds)
    # Only this script may run in the page, whatever a prompt contains.
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
    ]
    return Answer(200, "text/html; charset=utf-8", page.encode(), headers)
