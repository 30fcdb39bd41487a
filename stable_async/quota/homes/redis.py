"""The quota's home in Redis or Valkey: one key, which quota.lua maintains."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from stable_async.config import Secret
from stable_async.errors import ConfigurationError
from stable_async.quota.homes.central import PATIENCE, script
from stable_async.quota.homes.remote import UnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from urllib.parse import SplitResult

    from stable_async.quota.homes.central import Answer, Message

__all__ = ["SCHEMES", "RedisService", "check_url", "clients_of", "shown"]

SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel")
TLS = ("rediss", "valkeys", "rediss+sentinel")
TLS_PATHS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
SENTINEL_PORT = 26379

# What a server says to those who do not sign in.
NO_PASSWORD = ("HELLO must be called", "NOAUTH", "Authentication required")

# Connecting may take several round trips, seconds.
CONNECTING = 5.0


class RedisService:
    """A server, or the master that the Sentinels name."""

    def __init__(self, url: str, name: str) -> None:
        """Prepare; nothing is sent before `connect`.

        Args:
            url: See `SharedQuota.redis`.
            name: Distinguishes this quota from others on the server, where it is visible.

        Raises:
            ConfigurationError: The URL is not a Redis URL.
        """
        self._url = check_url(url)
        self.where: str = shown(self._url)
        self._is_tls = urlsplit(self._url).scheme in TLS
        # In braces, so that a cluster stores all keys of one quota on one node.
        self._key = f"{{stable_async:{name}}}:quota"
        self._clients: list[Redis] = []
        self._connected = self._worked = False
        self._digest = ""

    async def connect(self) -> None:
        """Connect and load the script, unless connected.

        Raises:
            UnreachableError: The server cannot be reached now.
            ConfigurationError: Retrying is useless.
        """
        if self._connected:
            return
        async with self._translated(CONNECTING), asyncio.timeout(CONNECTING):
            self._clients = clients_of(self._url)
            self._digest = str(await self._clients[0].script_load(script()))
        self._connected = True

    async def exchange(self, message: Message) -> Answer:
        """Run the script with a message and return its answer.

        Raises:
            UnreachableError: There is no answer; the message may have arrived.
            ConfigurationError: Retrying is useless.
        """
        if not self._connected:
            raise UnreachableError("not connected")
        async with self._translated(PATIENCE):
            arguments = self._digest, 1, self._key, json.dumps(message)
            reply = await self._clients[0].evalsha(*arguments)
        self._worked = True
        return cast("Answer", json.loads(reply))

    async def aclose(self) -> None:
        """Disconnect; does nothing when not connected."""
        await self._drop()

    async def _drop(self) -> None:
        clients, self._clients, self._connected = self._clients, [], False
        for client in clients:
            with suppress(RedisError, OSError):
                await client.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def _translated(self, patience: float) -> AsyncIterator[None]:
        """Translate errors of redis-py, and disconnect after any.

        A late answer must not be taken for the answer to the next message.
        """
        try:
            yield
        except TimeoutError:
            await self._drop()
            doubt = "" if self._worked or not self._is_tls else "; does it speak TLS there?"
            raise UnreachableError(f"no answer within {patience:g} s{doubt}") from None
        except (RedisError, OSError) as error:
            await self._drop()
            # Messages of redis-py name hosts and commands, never credentials.
            reason = " ".join(str(error).split()) or type(error).__name__
            if reason.startswith(NO_PASSWORD):
                reason = "it requires a password: redis://[user]:password@host"
            # "MOVED 8 host:port"; newer versions have classes for it, and leave out the first word.
            if isinstance(error, AskError) or reason.startswith(("MOVED ", "ASK ")):
                other = reason.split()[-1]
                reason = f"it is a node of a cluster whose node {other} has the key; name that one"
            if not self._worked and _is_permanent(error):
                reason = f"the shared quota at {self.where}: {reason}"
                raise ConfigurationError(reason) from None
            raise UnreachableError(reason) from None
        except BaseException:
            await self._drop()
            raise


def check_url(url: str) -> Secret:
    """Return the URL if it is a Redis URL.

    Raises:
        ConfigurationError: It is not, or has options that redis-py does not take.
    """
    try:
        parts = urlsplit(url)
        hosts = [] if parts.scheme == "unix" else _addresses(parts.netloc)
        if parts.scheme not in SCHEMES or not all(host for host, _ in hosts):
            raise ValueError
        if parts.scheme.endswith("+sentinel") and not parts.path.strip("/"):
            raise ValueError
        _parsed(parts)
    except ValueError:
        # The URL itself may contain a password.
        raise ConfigurationError(
            "the URL of the shared quota is not a Redis URL; allowed: "
            "redis://[[user]:password@]host[:port][/database], rediss:// for TLS, unix:///path, "
            "redis+sentinel://host[:port],host[:port]/service[/database]; special characters in a "
            "password are percent-encoded, as %23 for #"
        ) from None
    if problem := _problem_of_options(url):
        raise ConfigurationError(f"the URL of the shared quota has an option {problem}")
    return Secret(url)


def _problem_of_options(url: str) -> str:
    """Return what is wrong with an option, without its value if that may be a secret."""
    for name, value in _parsed(urlsplit(url)).items():
        if name in TLS_PATHS and not Path(value).exists():
            return f"for a file that does not exist: {name} is {value!r}"
    try:
        # Connects to nothing.
        clients_of(url)[0].connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except TypeError as error:
        # "... got an unexpected keyword argument 'name'"
        name = str(error).split("'")[1]
        return f"that redis-py does not take for such a server: {name}"
    except RedisError as error:
        return f"that redis-py refuses: {error}"
    return ""


def shown(url: str) -> str:
    """Return a URL without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def clients_of(url: str) -> list[Redis]:
    """Return a client of the server, followed by clients of the Sentinels that it asks."""
    parts = urlsplit(url)
    options = _parsed(parts)
    sentinels = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    options |= {
        "socket_timeout": CONNECTING,
        "socket_connect_timeout": CONNECTING,
        # A failed exchange is not repeated verbatim: the next message has the newer state.
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    options.pop("max_connections", None)
    if not parts.scheme.endswith("+sentinel"):
        return [Redis.from_pool(ConnectionPool(max_connections=1, **options))]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = sentinels["ssl"] = True
    for name in ("host", "port"):
        options.pop(name, None)
    timeouts = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")}
    manager = Sentinel(  # type: ignore[no-untyped-call]
        _addresses(parts.netloc), sentinel_kwargs={**sentinels, **timeouts}, **options
    )
    service = parts.path.strip("/").partition("/")[0]
    return [cast("Redis", manager.master_for(service)), *manager.sentinels]


def _parsed(parts: SplitResult) -> dict[str, Any]:
    """Return the options of a URL, as redis-py reads them.

    Raises:
        ValueError: An option is invalid.
    """
    scheme = parts.scheme.removesuffix("+sentinel").replace("valkey", "redis")
    path, netloc = parts.path, parts.netloc
    if parts.scheme.endswith("+sentinel"):
        path = "/" + path.strip("/").partition("/")[2]
        # Only the first of several hosts, to check the form of the URL.
        credentials, _, hosts = netloc.rpartition("@")
        netloc = f"{credentials}@{hosts.partition(',')[0]}"
    if parts.scheme != "unix" and path.strip("/") and not path.strip("/").isdigit():
        raise ValueError("the database is not a number")
    return dict(parse_url(parts._replace(scheme=scheme, netloc=netloc, path=path).geturl()))


def _addresses(netloc: str) -> list[tuple[str, int]]:
    """Return hosts and ports."""
    hosts = netloc.rpartition("@")[2].split(",")
    split = [urlsplit(f"//{host}") for host in hosts]
    return [(parts.hostname or "", parts.port or SENTINEL_PORT) for parts in split]


def _is_permanent(error: BaseException) -> bool:
    if isinstance(error, AuthenticationError | AuthorizationError):
        return True
    if isinstance(error, ResponseError):
        # Out of memory, a replica that is not the master yet, a disk that is full.
        temporary = (
            ClusterDownError | NoScriptError | OutOfMemoryError | ReadOnlyError | TryAgainError
        )
        return not isinstance(error, temporary) and not str(error).startswith(("MISCONF", "BUSY"))
    causes = (error, error.__cause__, error.__context__)
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes)
