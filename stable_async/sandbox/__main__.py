"""`python -m stable_async.sandbox`: the sandbox until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from typing import TYPE_CHECKING, get_args

from stable_async.sandbox import SandboxSettings, serve_until_signal
from stable_async.sandbox.settings import Counting

if TYPE_CHECKING:
    from collections.abc import Callable


def _latency(text: str) -> float | str:
    return text if text == "observed" else float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stable_async.sandbox",
        description="The Stability AI API on 127.0.0.1: no key, no cost.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1, and nothing else")
    parser.add_argument("--port", type=int, default=8787, help="0 takes a free one")
    parser.add_argument("--counting", choices=get_args(Counting), default="counter")
    parser.add_argument("--requests", type=int, default=150, help="allowed in one window")
    parser.add_argument("--window", type=float, default=10.0, help="seconds")
    parser.add_argument("--penalty", type=float, default=60.0, help="seconds")
    parser.add_argument("--latency", type=_latency, default="observed", help="or seconds")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of 500 answers")
    parser.add_argument("--drop-rate", type=float, default=0.0, help="share of cut connections")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--credits", type=float, default=1_000_000.0, help="to begin with")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    return parser


def _attached_settings() -> SandboxSettings:
    """Read the settings from stdin, as `SandboxProcess` writes them."""
    plain = json.loads(sys.stdin.readline())
    if plain["api_keys"] is not None:
        plain["api_keys"] = frozenset(plain["api_keys"])
    return SandboxSettings(**plain)


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
    """Run the command; give its exit status."""
    options = vars(_parser().parse_args())
    attached = options.pop("attached")
    try:
        settings = _attached_settings() if attached else SandboxSettings(**options)
        or_until = _when_stdin_ends if attached else None
        asyncio.run(serve_until_signal(settings, on_ready=_show, or_until=or_until))
    except ValueError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"sandbox: cannot listen: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
