"""Who shares a quota: clients of one key and address, those that name one home, or one client."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stable_async.arguments import UnfitError, checked_setting, or_none, path_like
from stable_async.config import Quota, Secret
from stable_async.errors import ConfigurationError
from stable_async.extras import install_command
from stable_async.quota.dispatcher import clock_of
from stable_async.quota.homes.file import FORMAT, FileHome, boot_id
from stable_async.quota.homes.local import ProcessHome
from stable_async.quota.state import terms_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.quota.homes.base import QuotaHome

__all__ = ["SHARED_QUOTA_VARIABLE", "KeyQuota", "SharedQuota", "cache_folder", "quota_of"]

logger: logging.Logger = logging.getLogger("stable_async.quota")

SHARED_QUOTA_VARIABLE = "STABILITY_SHARED_QUOTA"

# Files of keys not used for this long, seconds, are removed.
STALE = 24 * 3600.0

# How often they are looked for, seconds: tests with a sandbox each leave thousands of files.
CLEAN_EVERY = 3600.0

DEFAULT_PORTS = {"http": 80, "https": 443}

# A loop whose time differs by more than this from the machine's, seconds, has a clock of its own.
OWN_CLOCK = 1.0

# Libraries for tests replace the function of that name when they stop the time.
_monotonic = time.monotonic


@dataclass(frozen=True, kw_only=True)
class SharedQuota(ABC):
    """A quota that several processes share: `StabilityClient(quota=SharedQuota.file(...))`.

    Without one, all clients of one key and address on a machine share a quota already. Name another
    home to store it elsewhere, or to share one quota between several keys.

    Attributes:
        quota: What the server allows.
    """

    quota: Quota = field(default_factory=Quota)

    def __post_init__(self) -> None:
        if not isinstance(self.quota, Quota):
            raise ConfigurationError(
                f"quota is a {type(self.quota).__name__}; allowed in a SharedQuota: a Quota"
            )
        if self.quota.scope == "client":
            raise ConfigurationError(
                'Quota.scope is "client"; allowed in a SharedQuota: "key", since it is there to be '
                "shared"
            )

    @staticmethod
    def file(
        path: str | os.PathLike[str],
        quota: Quota = Quota(),  # noqa: B008 - frozen
    ) -> FileQuota:
        """Share `quota` with every process on this machine that names the same file.

        The file is created, readable by its owner only, when a client opens it.

        Args:
            path: The file, on a local file system, in a folder that only the service can write to.
                It need not survive a reboot, so `/run` is a good place.
            quota: What the server allows.

        Raises:
            ConfigurationError: This system has no files that several processes can append to
                safely, or the quota has the scope "client".
        """
        if os.name != "posix":
            raise ConfigurationError("a quota can be shared by a file on Linux, macOS and BSD only")
        return FileQuota(path=checked_setting("path", path, _real_path), quota=quota)

    @staticmethod
    def redis(
        url: str,
        name: str | None = None,
        quota: Quota = Quota(),  # noqa: B008 - frozen
    ) -> RedisQuota:
        """Share `quota` with every process on any machine that names the same Redis or Valkey.

        All of them must use equal `quota` values, except `burst`. docs/machines.md says what the
        server needs, and what happens when it is unreachable or has lost the state.

        Args:
            url: `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS,
                `unix:///path`, or `redis+sentinel://host[:port],host[:port]/service[/database]`.
                Options of redis-py are passed as a query, such as `?ssl_ca_certs=PATH`.
            name: Distinguishes this quota from others on the server; `None`: a hash of the
                client's key and address.
            quota: What the server allows.

        Raises:
            ConfigurationError: An argument is invalid, redis-py is not installed, or the quota has
                the scope "client".
        """
        try:
            from stable_async.quota.homes.redis import check_url
        except ImportError:
            raise ConfigurationError(
                f"a quota in Redis needs redis-py: {install_command('redis')}"
            ) from None

        checked_url = check_url(checked_setting("url", url, _text))
        checked_name = checked_setting("name", name, or_none(_text))
        return RedisQuota(url=checked_url, name=checked_name, quota=quota)

    @staticmethod
    def ray(
        name: str,
        quota: Quota = Quota(),  # noqa: B008 - frozen
    ) -> RayQuota:
        """Share `quota` with every process of a Ray cluster that uses the same name.

        A named actor holds it. The actor is detached: it outlives the program, so that the next one
        knows what the last one has sent. `ray.init()` must have been called.

        Args:
            name: Name of the quota in the cluster.
            quota: What the server allows; equal in all processes, except `burst`.

        Raises:
            ConfigurationError: Ray is not installed, or the quota has the scope "client".
        """
        if find_spec("ray") is None:
            raise ConfigurationError(f"a quota in Ray needs Ray: {install_command('ray')}")
        return RayQuota(name=checked_setting("name", name, _text), quota=quota)

    @staticmethod
    def parse(
        text: str,
        quota: Quota = Quota(),  # noqa: B008 - frozen
    ) -> SharedQuota:
        """Return the shared quota that `text` names, as in `STABILITY_SHARED_QUOTA`.

        It is a path, or a URL as for `redis`.

        Raises:
            ConfigurationError: As for `file` and `redis`, or it looks like a part of a URL.
        """
        text = checked_setting("text", text, _text)
        if "://" in text:
            return SharedQuota.redis(text, None, quota)
        if ":" in text.partition(os.sep)[0]:
            # A server's address would be the name of a file here. It may contain a password.
            raise ConfigurationError(
                "the shared quota is neither a path nor a URL; allowed: redis://host[:port] for a "
                "server, or for a file of that name ./NAME"
            )
        return SharedQuota.file(text, quota)

    def for_key(self, name: str) -> SharedQuota:
        """Return this quota for the clients of one key and address; `name` is a hash of these."""
        del name
        return self

    @property
    @abstractmethod
    def identity(self) -> str:
        """Equal for clients of one event loop that share a queue; includes the terms."""

    @abstractmethod
    def home(self) -> QuotaHome:
        """Return a home of this quota, for one event loop."""


@dataclass(frozen=True, kw_only=True)
class FileQuota(SharedQuota):
    """A quota in a file on this machine.

    Attributes:
        path: The file.
    """

    path: Path

    @property
    def identity(self) -> str:
        """Equal for clients of one event loop that share a queue; includes the terms."""
        return f"file {self.path} {terms_of(self.quota)}"

    def home(self) -> QuotaHome:
        """Return a home of this quota, for one event loop."""
        return FileHome(self.path, self.quota)


@dataclass(frozen=True, kw_only=True)
class RedisQuota(SharedQuota):
    """A quota in Redis.

    Attributes:
        url: The server.
        name: Name of the quota on the server; `None` until a client's key is known.
    """

    url: Secret = field(repr=False)
    name: str | None

    def for_key(self, name: str) -> SharedQuota:
        """Return this quota, with that name if it has none."""
        return replace(self, name=name) if self.name is None else self

    @property
    def identity(self) -> str:
        """Equal for clients of one event loop that share a queue; includes the terms."""
        server = sha256(self.url.encode()).hexdigest()
        return f"redis {server} {self.name} {terms_of(self.quota)}"

    def home(self) -> QuotaHome:
        """Return a home of this quota, for one event loop.

        Raises:
            ConfigurationError: It has no name.
        """
        from stable_async.quota.homes.redis import RedisService
        from stable_async.quota.homes.remote import RemoteHome

        if self.name is None:
            raise ConfigurationError(
                "a quota in Redis that is used without a client needs a name: "
                "SharedQuota.redis(url, name)"
            )
        return RemoteHome(self.quota, RedisService(self.url, self.name))


@dataclass(frozen=True, kw_only=True)
class RayQuota(SharedQuota):
    """A quota in a Ray actor.

    Attributes:
        name: Name of the quota in the cluster.
    """

    name: str

    @property
    def identity(self) -> str:
        """Equal for clients of one event loop that share a queue; includes the terms."""
        return f"ray {self.name} {terms_of(self.quota)}"

    def home(self) -> QuotaHome:
        """Return a home of this quota, for one event loop."""
        from stable_async.quota.homes.ray import RayService
        from stable_async.quota.homes.remote import RemoteHome

        return RemoteHome(self.quota, RayService(self.name))


@dataclass(frozen=True)
class KeyQuota:
    """The quota of one key at one address, shared by all their users on this machine.

    Its file is in the user's cache folder, or in the folder for temporary files where there is no
    home. If no file can be used, it is shared within the process. An event loop with a clock of its
    own, such as one with virtual time for tests, has a quota of its own.

    Attributes:
        name: The file's name, which ends in a hash of key and address; the file itself has the id
            of this boot after it.
        quota: What the server allows.
    """

    name: str
    quota: Quota

    @property
    def identity(self) -> str:
        """Equal for clients of one event loop that share a queue; includes the terms."""
        return f"key {self.name} {terms_of(self.quota)}"

    def home(self) -> QuotaHome:
        """Return a home of this quota, for one event loop."""
        if _has_own_clock():
            return ProcessHome(self.quota)
        folder = cache_folder()
        if folder is None:
            _warn_once()
            return ProcessHome(self.quota, name=self.name)
        # Machines may share a home folder, and each has a clock of its own.
        boot = boot_id()
        clock = sha256(boot.encode()).hexdigest()[:8]
        path = folder / (f"{self.name}-{clock}" if boot else self.name)
        if not path.exists():
            _remove_stale(folder)
        return FileHome(path, self.quota, fallback=True)


def quota_of(
    quota: Quota | SharedQuota, api_key: str, base_url: str
) -> Quota | SharedQuota | KeyQuota:
    """Return the quota that a client of this key and address observes. Nothing is opened.

    Args:
        quota: The client's `quota` argument.
        api_key: The key; only a hash of it is stored anywhere.
        base_url: The address, as `resolve_base_url` returns it.

    Raises:
        ConfigurationError: `STABILITY_SHARED_QUOTA` names no shared quota.
    """
    whose = _hash(api_key, base_url)
    if isinstance(quota, SharedQuota):
        return quota.for_key(whose)
    if quota.scope == "client":
        return quota
    if named := os.environ.get(SHARED_QUOTA_VARIABLE, "").strip():
        shared = SharedQuota.parse(named, quota)
        if isinstance(shared, FileQuota) and not Path(named).is_absolute():
            raise ConfigurationError(
                f"{SHARED_QUOTA_VARIABLE} is {named!r}, which is another file in every working "
                "folder; allowed: an absolute path, or a URL such as redis://host"
            )
        return shared.for_key(whose)
    return KeyQuota(f"quota-{FORMAT}-{whose}", quota)


def _real_path(value: object) -> Path:
    """Return a path without links: the file that follows would replace a link to the file."""
    path = path_like(value)
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        raise UnfitError("a path without null characters") from None


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise UnfitError("text that is not empty")


def _hash(api_key: str, base_url: str) -> str:
    """Return the identity of key and address, with the address normalised."""
    parts = urlsplit(base_url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    port = parts.port or DEFAULT_PORTS.get(scheme, 0)
    whose = f"{api_key}\n{scheme}://{host}:{port}{parts.path.rstrip('/')}"
    return sha256(whose.encode()).hexdigest()[:32]


def cache_folder() -> Path | None:
    """Return the folder for the files of keys, created if necessary.

    `None` if there is none that this user, and nobody else, can write to, and on Windows.
    """
    if os.name != "posix":
        return None
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
        except OSError:
            continue
        # Other users must not be able to replace its contents.
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if ours and not status.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def _candidates() -> Iterator[Path]:
    """Yield folders that are the same for all programs of a user, wherever they run.

    So a relative path is ignored, as the XDG Base Directory Specification says.
    """
    caches = [Path(os.environ.get("XDG_CACHE_HOME", ""))]
    with suppress(RuntimeError):  # neither HOME nor an entry for this user
        caches.append(Path.home() / ".cache")
    yield from [folder / "stable_async" for folder in caches if folder.is_absolute()][:1]
    yield Path(tempfile.gettempdir()) / f"stable_async-{os.getuid()}"


def _remove_stale(folder: Path) -> None:
    """Remove the files of keys that nobody has used for long: they hold nothing that matters."""
    cleaned, now = folder / "cleaned", time.time()
    with suppress(OSError):
        if cleaned.exists() and 0 <= now - cleaned.stat().st_mtime < CLEAN_EVERY:
            return
        cleaned.touch()
        for path in folder.glob("quota-*"):
            if path.stat().st_mtime < now - STALE:
                path.unlink()


def _has_own_clock() -> bool:
    """Return whether the times of the running event loop are not those of this machine's clock."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return abs(clock_of(loop)() - _monotonic()) > OWN_CLOCK


@cache
def _warn_once() -> None:
    logger.warning(
        "there is no writable folder for a quota that the processes of this machine share: "
        "this process counts its own requests only; set %s to share one",
        SHARED_QUOTA_VARIABLE,
    )
