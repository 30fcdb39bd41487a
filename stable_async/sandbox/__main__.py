"""`python -m stable_async.sandbox`: run the sandbox until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from typing import TYPE_CHECKING, cast, get_args

from stable_async.sandbox import SandboxSettings, serve_until_signal
from stable_async.sandbox.settings import Counting, edge_rates

if TYPE_CHECKING:
    from collections.abc import Callable


def _latency(text: str) -> float | str:
    return text if text == "observed" else float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stable_async.sandbox",
        description="The Stability AI API on this machine: no key, no cost.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="others need --token")
    parser.add_argument("--port", type=int, default=8787, help="0 picks a free one")
    parser.add_argument("--token", help="of the page and the control addresses")
    parser.add_argument("--cors", action="append", default=[], help="origin of a page")
    parser.add_argument("--allow-host", action="append", default=[], help="name of this machine")
    parser.add_argument("--counting", choices=get_args(Counting), default="counter")
    parser.add_argument("--requests", type=int, default=150, help="allowed in one window")
    parser.add_argument("--window", type=float, default=10.0, help="seconds")
    parser.add_argument("--penalty", type=float, default=60.0, help="seconds")
    parser.add_argument("--latency", type=_latency, default="observed", help="or seconds")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of 500 answers")
    parser.add_argument("--drop-rate", type=float, default=0.0, help="share of cut connections")
    parser.add_argument("--edge", action="append", default=[], help="edge fault, as KIND=RATE")
    parser.add_argument("--balance-lag", type=float, default=0.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="for everything random")
    parser.add_argument("--credits", type=float, default=1_000_000.0, help="at the start")
    parser.add_argument("--facts", help="another facts file")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    return parser


def _attached_settings() -> SandboxSettings:
    """Read the settings from stdin, as `SandboxProcess` writes them."""
    plain = json.loads(sys.stdin.readline())
    if plain["api_keys"] is not None:
        plain["api_keys"] = frozenset(plain["api_keys"])
    return SandboxSettings(**plain)


def _settings(options: dict[str, object]) -> SandboxSettings:
    def texts(name: str) -> tuple[str, ...]:
        return tuple(cast("list[str]", options.pop(name)))

    cors, hosts, rates = texts("cors"), texts("allow_host"), edge_rates(texts("edge"))
    return SandboxSettings(cors=cors, allowed_hosts=hosts, edge_rates=rates, **options)  # type: ignore[arg-type]


def _when_stdin_ends(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(act)

    threading.Thread(target=wait, daemon=True).start()


def _show(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command and return its exit status."""
    options = vars(_parser().parse_args())
    attached = options.pop("attached")
    try:
        settings = _attached_settings() if attached else _settings(options)
        or_until = _when_stdin_ends if attached else None
        asyncio.run(serve_until_signal(settings, on_ready=_show, or_until=or_until))
    except (ValueError, ImportError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"sandbox: cannot listen: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
