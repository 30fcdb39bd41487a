"""`stable-async doctor`: check the set-up of this machine, and the known facts of the API."""

import asyncio
import json
import os
import platform
import shutil
import ssl
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from stable_async._version import __version__
from stable_async.cli.connection import Connection
from stable_async.cli.exit_status import CANNOT_WORK, OK, UsageError
from stable_async.cli.options import Flag, JsonFlag, reflowed
from stable_async.cli.probe import probe as run_probe
from stable_async.cli.target import Target, limited, open_sender, open_target
from stable_async.config import API_KEY_VARIABLE
from stable_async.errors import ConfigurationError, QuotaTimeoutError, StabilityError
from stable_async.extras import install_command
from stable_async.quota.limiter import QuotaLimiter
from stable_async.quota.shared import FileQuota, KeyQuota, RedisQuota, cache_folder

__all__ = ["doctor"]

# A first start on an empty server waits for 12.3 s.
QUOTA_SECONDS = 20.0
CONNECT_SECONDS = 10.0
CLOCK_SECONDS = 60.0
CERTIFICATE_DAYS = 14
FREE_BYTES = 2 << 30
OPEN_FILES = 1024
# Those of the extra `all`: the others take seconds to import.
EXTRAS: dict[str, tuple[str, ...]] = {
    "cli": ("cyclopts", "rich"),
    "sandbox": ("PIL", "python_multipart", "tinytag", "yaml"),
    "export": ("pyarrow",),
    "storage": ("obstore",),
    "redis": ("redis",),
    "otel": ("opentelemetry",),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was checked, its state, and what to do if it is wrong."""

    subject: str
    state: str
    to_do: str = ""


@reflowed
def doctor(
    *,
    probe: Flag = False,
    credits: Annotated[float, Parameter(metavar="CREDITS")] = 0.0,  # noqa: A002 - the API's word
    as_json: JsonFlag = False,
    connection: Connection = Connection(),  # noqa: B008 - frozen
) -> int:
    """Check key, network, quota and machine; with --probe, compare the API with the facts.

    A probe sends about 1,900 requests that the API refuses, within the quota, and spends nothing
    without --credits. Exit status: 0 all is well; 1 something must be fixed, or the probe had to
    stop; 3 a fact differs.

    Args:
        probe: Compare the facts that the client and the sandbox are built on with the API.
        credits: Maximum credits that a probe may spend, by the price list.
        as_json: Print JSON.
        connection: Where requests go.
    """
    if not 0 <= credits < float("inf"):
        raise UsageError(f"--credits is {credits}; allowed: 0 or more")
    if probe:
        return asyncio.run(run_probe(connection, credits, as_json=as_json))
    checks = asyncio.run(_examine(connection))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        width = max(len(check.subject) for check in checks)
        for check in checks:
            word = "FIX" if check.to_do else "ok "
            print(f"{word}  {check.subject:{width}}  {check.state}")
            if check.to_do:
                print(f"     {'':{width}}  -> {check.to_do}")
    return CANNOT_WORK if any(check.to_do for check in checks) else OK


async def _examine(connection: Connection) -> list[Check]:
    """Return all checks, those of the machine also where the API cannot be reached."""
    checks = [_versions(), _extras()]
    try:
        async with open_target(connection) as target:
            checks += [_key(target, connection), _address(target), _proxy(target)]
            reached = await _network(target)
            checks += reached
            if not any(check.to_do for check in reached):
                checks += await _account(target, connection)
    except ConfigurationError as error:
        checks.append(Check("settings", str(error), "correct the setting, then run this again"))
    return [*checks, _cache(), _disk(), _files()]


def _versions() -> Check:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("aiohttp", "pydantic"))
    python = platform.python_version()
    return Check("versions", f"stable_async {__version__}, Python {python}, {libraries}")


def _extras() -> Check:
    there, missing = [], []
    for extra, modules in EXTRAS.items():
        try:
            for module in modules:
                import_module(module)
            there.append(extra)
        except ImportError:
            missing.append(extra)
    state = f"installed: {', '.join(there)}"
    if missing:
        state += f"; not: {', '.join(missing)} ({install_command(missing[0])})"
    return Check("extras", state)


def _key(target: Target, connection: Connection) -> Check:
    if connection.sandbox:
        return Check("key", "the sandbox accepts any")
    state = f"from {API_KEY_VARIABLE}, {len(target.key)} characters"
    if not target.key.startswith("sk-"):
        return Check("key", state, "the API's keys begin with sk-: check the variable")
    return Check("key", state)


def _address(target: Target) -> Check:
    parts = urlsplit(target.url)
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
        advice = "the key would travel unencrypted: use https"
        return Check("address", target.url, advice)
    return Check("address", target.url)


def _proxy(target: Target) -> Check:
    if target.proxy is None:
        return Check("proxy", "none")
    login = ", with a login" if target.proxy.headers else ""
    return Check("proxy", f"{target.proxy.url}, from the environment{login}")


async def _network(target: Target) -> list[Check]:
    """Open a connection, to the proxy if there is one, and check the certificate."""
    parts = urlsplit(target.proxy.url if target.proxy else target.url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    secure = parts.scheme == "https"
    context = (target.tls or ssl.create_default_context()) if secure else None
    began = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "failed"
        advice = "trust your network's CA with SSL_CERT_FILE, or correct this machine's clock"
        return [Check("TLS", f"{host}: {reason}", advice)]
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        advice = "check the network, DNS, firewall, and HTTPS_PROXY"
        return [Check("network", f"{host}:{port}: {reason}", advice)]
    took = 1000 * (time.monotonic() - began)
    found = writer.get_extra_info("ssl_object")
    checks = [Check("network", f"{host}:{port} in {took:.0f} ms")]
    if found is not None:
        checks.append(_certificate(found))
    writer.close()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return checks


def _certificate(connection: ssl.SSLObject) -> Check:
    certificate = connection.getpeercert() or {}
    expires = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "Jan 1 00:00:00 2099 GMT")))
    days = (expires - time.time()) / 86_400
    state = f"{connection.version()}, certificate valid for {days:.0f} days"
    if days < CERTIFICATE_DAYS:
        return Check("TLS", state, "this machine's clock is wrong, or the certificate expires soon")
    return Check("TLS", state)


async def _account(target: Target, connection: Connection) -> list[Check]:
    """Ask for the balance, within the quota; what comes back shows key, clock and quota."""
    from stable_async.sandbox.probing.messages import NO_ANSWER, ProbeRequest

    checks = []
    try:
        async with limited(target, connection) as (limiter, kept):
            if limiter is not None:
                await limiter.open()
                checks.append(await _quota(limiter, _home(kept)))
                if checks[-1].to_do:
                    return checks
            async with open_sender(target, limiter) as send:
                send.timeout = CONNECT_SECONDS
                answer = await send(ProbeRequest("GET", "/v1/user/balance", keyed=True))
    except StabilityError as error:
        return [*checks, Check("quota", str(error), "choose another file: --shared-quota PATH")]
    if answer.status == NO_ANSWER:
        advice = "check the network and any proxy; then the API's status page"
        return [*checks, Check("account", f"no answer: {answer.body.decode()}", advice)]
    checks.append(_balance(answer.status, answer.content, answer.from_api))
    if date := answer.headers.get("date"):
        checks.append(_clock(date))
    return checks


def _home(kept: object) -> str:
    """Return where the quota is kept, without passwords."""
    match kept:
        case FileQuota():
            return f"shared in {kept.path}"
        case RedisQuota():
            return f"shared in Redis on {urlsplit(kept.url).hostname or 'a socket'}"
        case KeyQuota() if cache_folder() is not None:
            return "shared by all programs on this machine with this key and address"
    return "for this program only"


async def _quota(limiter: QuotaLimiter, home: str) -> Check:
    """Return whether a request may leave soon."""
    left = limiter.statistics().penalty_left
    if not left:
        try:
            permit = await limiter.acquire(priority="bulk", deadline=QUOTA_SECONDS)
        except QuotaTimeoutError:
            advice = "make the quota's server reachable from here, or ease the load on the quota"
            return Check("quota", f"{home}; no permit within {QUOTA_SECONDS:g} s", advice)
        permit.release()
    used = limiter.statistics()
    state = f"{home}; {used.in_window} of {used.requests} in use"
    return Check("quota", state, f"the penalty ends in {left:.0f} s" if left else "")


def _balance(status: int, content: dict[str, object], from_api: bool) -> Check:
    left = content.get("credits")
    if status == 200 and isinstance(left, int | float) and abs(left) < 1e12:
        if not left:
            return Check("account", "0 credits", "buy some: platform.stability.ai/account/credits")
        return Check("account", f"the key is accepted; {left:,.2f} credits")
    if status == 401 and from_api:
        advice = f"create a key at platform.stability.ai/account/keys and set {API_KEY_VARIABLE}"
        return Check("account", "the key is not accepted", advice)
    if status == 429:
        return Check(
            "account", "the quota is breached", "wait 60 s, and find out what else uses the key"
        )
    if from_api and "name" in content:
        return Check("account", f"{status} {content['name']}", "check the account")
    advice = "something in front of the API answered: a proxy, a firewall, or a wrong address"
    return Check("account", f"{status}, not an answer from the API", advice)


def _clock(date: str) -> Check:
    try:
        off = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Check("clock", "the server sends no date")
    if abs(off) > CLOCK_SECONDS:
        return Check("clock", f"{off:+.0f} s from the server's", "set this machine's clock (NTP)")
    return Check("clock", "agrees with the server's")


def _cache() -> Check:
    if os.name != "posix":
        return Check("cache folder", "not used here: each process keeps to the quota by itself")
    folder = cache_folder()
    if folder is None:
        advice = "set XDG_CACHE_HOME to a folder of your own; without one the quota is not shared"
        return Check("cache folder", "none that only this user can write to", advice)
    return Check("cache folder", str(folder))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    state = f"{free / 1e9:,.1f} GB free in this folder"
    advice = "an image takes 1 to 3 MB: make room" if free < FREE_BYTES else ""
    return Check("disk", state, advice)


def _files() -> Check:
    try:
        import resource
    except ImportError:
        return Check("open files", "no known limit on this system")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = "ulimit -n 4096: a connection and a file for each request" if soft < OPEN_FILES else ""
    return Check("open files", f"up to {soft:,}", advice)
