"""The proxy to the API: from the argument, else from the environment."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from yarl import URL

from stable_async.config import Secret, is_host
from stable_async.errors import ConfigurationError
from stable_async.wording import as_given

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

__all__ = ["Proxy", "bypasses", "resolve_proxy"]

AUTHORIZATION = "Proxy-Authorization"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        url: `http://host:port` or `https://host:port`.
        headers: `Proxy-Authorization`, where it has a user name.
    """

    url: str
    headers: dict[str, str]


def resolve_proxy(base_url: str, proxy: object) -> Proxy | None:
    """Return the proxy to `base_url`; `None` if there is none.

    Args:
        base_url: Address of the API.
        proxy: Its URL, with any user name and password; `None` reads the environment
            (`HTTPS_PROXY` or `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, and the system's settings where
            Python knows them); `False` uses none.

    Raises:
        ConfigurationError: It is not the URL of an HTTP proxy.
    """
    if proxy is False:
        return None
    if proxy is not None:
        if not isinstance(proxy, str | URL):
            shown = as_given(proxy) if isinstance(proxy, int) else type(proxy).__name__
            raise ConfigurationError(f"proxy is {shown}; allowed: a URL, False, or None")
        return _parse(str(proxy), "proxy")
    target = urlsplit(base_url)
    settings = getproxies()  # lower case first, and no HTTP_PROXY that a CGI request may set
    name = target.scheme if settings.get(target.scheme) else "all"
    url = settings.get(name, "").strip()
    host = target.hostname or ""
    port = target.port or {"http": 80, "https": 443}[target.scheme]
    if not url or _is_loopback(host) or bypasses(settings.get("no", ""), host, port):
        return None
    return _parse(url, f"{name.upper()}_PROXY")


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Return whether `no_proxy`, as curl and Go read it, excludes a host.

    Its entries, separated by commas or spaces: `*`; a domain, with or without a leading `.` or
    `*.`, which includes its subdomains; an address; a network such as 10.0.0.0/8; each of them
    with a port.
    """
    host = host.lower().rstrip(".")
    address = _address(host)
    for entry in no_proxy.lower().replace(",", " ").split():
        if entry == "*":
            return True
        name, entry_port = _split_port(entry)
        if entry_port is not None and entry_port != port:
            continue
        if address is not None:
            if _in_network(address, name):
                return True
        elif host == (name := name.removeprefix("*").strip(".")) or (
            name and host.endswith(f".{name}")
        ):
            return True
    return False


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine, to which no proxy is used; Go excludes it as well."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None


def _in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    try:
        return address in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    name, colon, port = entry.rpartition(":")
    bare_v6 = ":" in name and not name.endswith("]")
    return (name, int(port)) if colon and port.isdecimal() and not bare_v6 else (entry, None)


def _parse(url: str, source: str) -> Proxy:
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    name = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not is_host(name) or parts.path.strip("/"):
        # The URL is not shown: it may have a password.
        raise ConfigurationError(
            f"{source} has the scheme {parts.scheme[:20]!r} or no host; "
            "allowed: http://[user:password@]host[:port] or https://..."
        )
    host = f"[{name}]" if ":" in name else name
    headers: dict[str, str] = {}
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        headers[AUTHORIZATION] = Secret(
            "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        )
    return Proxy(f"{parts.scheme}://{host}{f':{port}' if port else ''}", headers)
