"""`stable-async sandbox`: the API on this machine."""

import asyncio
import os
import secrets
from typing import Annotated, Literal

from cyclopts import Parameter

from stable_async.cli.exit_status import OK, UsageError
from stable_async.cli.options import WholeNumber, option_text, reflowed
from stable_async.sandbox import SandboxSettings, serve_until_signal
from stable_async.sandbox.settings import LOOPBACK, Counting, edge_rates

__all__ = ["sandbox"]

TOKEN_VARIABLE = "STABILITY_SANDBOX_TOKEN"  # noqa: S105


@reflowed
def sandbox(
    *,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = LOOPBACK,
    port: WholeNumber = 8787,
    cors: Annotated[
        tuple[str, ...], Parameter(metavar="ORIGIN", negative="", show_default=False)
    ] = (),
    allow_host: Annotated[
        tuple[str, ...], Parameter(metavar="NAME", negative="", show_default=False)
    ] = (),
    counting: Counting = "counter",
    latency: Annotated[str, Parameter(metavar="observed|SECONDS")] = "observed",
    fail_rate: Annotated[float, Parameter(metavar="RATE")] = 0.0,
    drop_rate: Annotated[float, Parameter(metavar="RATE")] = 0.0,
    edge: Annotated[
        tuple[str, ...], Parameter(metavar="KIND=RATE", negative="", show_default=False)
    ] = (),
    balance_lag: Annotated[float, Parameter(metavar="SECONDS")] = 0.0,
    facts: Annotated[str | None, Parameter(metavar="FILE")] = None,
    seed: WholeNumber = 0,
) -> int:
    """Serve the API on this machine, without a key and without cost, until Ctrl-C.

    On any other host than 127.0.0.1 the page and the control addresses require a token: the value
    of STABILITY_SANDBOX_TOKEN, or a random one that is printed.

    Args:
        host: IP address to listen on; 0.0.0.0 for containers.
        port: TCP port; 0 takes a free one.
        cors: Origin whose pages may call the API, such as http://localhost:3000; repeatable.
        allow_host: Host name that requests may use besides localhost and addresses; repeatable.
        counting: How the quota is counted.
        latency: Time from a request to its answer: as observed with the real API, or seconds.
        fail_rate: Share of requests that are answered with 500, 0 to 1.
        drop_rate: Share of responses whose connection is cut, 0 to 1.
        edge: Share of requests that meet an edge fault, such as firewall=0.05; repeatable.
        balance_lag: Seconds until a charge appears in the balance.
        facts: File of facts to use instead of the package's own.
        seed: Seed for everything random.
    """
    token = os.environ.get(TOKEN_VARIABLE) or (
        None if host == LOOPBACK else secrets.token_urlsafe(18)
    )
    try:
        settings = SandboxSettings(
            host=host,
            port=port,
            token=token,
            cors=cors,
            allowed_hosts=allow_host,
            counting=counting,
            latency=_latency(latency),
            fail_rate=fail_rate,
            drop_rate=drop_rate,
            edge_rates=edge_rates(edge),
            balance_lag=balance_lag,
            facts=facts,
            seed=seed,
        )
        asyncio.run(serve_until_signal(settings, on_ready=lambda url: _announce(url, token)))
    except ValueError as error:
        raise UsageError(option_text(error)) from None
    return OK


def _latency(text: str) -> float | Literal["observed"]:
    try:
        return "observed" if text == "observed" else float(text)
    except ValueError:
        raise UsageError(
            f"--latency is {text!r}; allowed: observed, or seconds, 0 or more"
        ) from None


def _announce(url: str, token: str | None) -> None:
    print(f"sandbox on {url} (STABILITY_BASE_URL={url} STABILITY_API_KEY=any)", flush=True)
    if token:
        print(f"page: {url}/#token={token}", flush=True)
