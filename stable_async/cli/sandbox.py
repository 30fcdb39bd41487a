"""`stable-async sandbox`: the API on this machine."""

import asyncio
from typing import Annotated, Literal

from cyclopts import Parameter

from stable_async.cli.failures import OK, UsageError
from stable_async.sandbox import SandboxSettings, serve_until_signal
from stable_async.sandbox.settings import Counting

__all__ = ["sandbox"]


def sandbox(
    *,
    port: int = 8787,
    counting: Counting = "counter",
    latency: Annotated[str, Parameter(metavar="observed|SECONDS")] = "observed",
    fail_rate: float = 0.0,
    drop_rate: float = 0.0,
    seed: int = 0,
) -> int:
    """Serve the API on 127.0.0.1, without a key and without cost, until Ctrl-C.

    Args:
        port: TCP port; 0 takes a free one.
        counting: How the quota is counted: the ways that servers do it, or off.
        latency: From a request to its answer: as seen of the real service, or seconds.
        fail_rate: Share of requests that are answered with 500, 0 to 1.
        drop_rate: Share of answers whose connection is cut, 0 to 1.
        seed: Of all that is random.
    """
    try:
        settings = SandboxSettings(
            port=port,
            counting=counting,
            latency=_latency(latency),
            fail_rate=fail_rate,
            drop_rate=drop_rate,
            seed=seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    asyncio.run(serve_until_signal(settings, on_ready=_tell))
    return OK


def _latency(text: str) -> float | Literal["observed"]:
    return "observed" if text == "observed" else float(text)


def _tell(url: str) -> None:
    print(f"sandbox on {url} (STABILITY_BASE_URL={url} STABILITY_API_KEY=any)", flush=True)
