"""Proxies, certificates and connections of a caller's own, against real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from stable_async import (
    APIConnectionError,
    ConfigurationError,
    StabilityClient,
    StabilityError,
    WrongEventLoopError,
)
from stable_async.transport.proxies import bypasses, resolve_proxy
from tests.raw_server import Connection, answer
from tests.samples import sample_image
from tests.transport.proxy_server import ProxyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "sk-secret-key"
HOST = "api.company.test"
IMAGE = sample_image()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


class Server:
    """Answers every request with an image, over TLS if it has a certificate.

    Attributes:
        heads: The heads of the requests.
        peers: The certificates of the clients, `None` for those without one.
    """

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.peers: list[object] = []
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            while True:
                head = await connection.head()
                self.heads.append(head)
                self.peers.append(writer.get_extra_info("peercert") or None)
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
                await connection.send(answer(IMAGE))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    served = Server()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(served._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    served.url = f"{'https' if context else 'http'}://127.0.0.1:{port}"
    try:
        yield served
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*(names or (HOST, "127.0.0.1"))).configure_cert(context)
    return context


def ca_file(ca: trustme.CA, folder: Path) -> Path:
    path = folder / "company.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("by", ["argument", "environment"])
async def test_a_proxy_with_a_password_leads_to_the_api(
    scheme: str, by: str, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(ca) if scheme == "https" else None
    async with serving(context) as server, ProxyServer(server.url, "me:p@ss:w").serve() as proxy:
        url = proxy.url.replace("://", "://me:p%40ss%3Aw@")
        if by == "environment":
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", url)
        async with StabilityClient(
            KEY,
            base_url=f"{scheme}://{HOST}/prefix",
            proxy=url if by == "argument" else None,
            ssl=ca_file(ca, tmp_path),
        ) as client:
            image = await client.generate.core("a secret prompt")
            again = await client.generate.core("a secret prompt")
    assert image.data == again.data == IMAGE
    assert len(server.heads) == 2
    assert all(f"Authorization: Bearer {KEY}" in head for head in server.heads)
    if scheme == "https":
        (connect,) = proxy.heads  # the tunnel is kept alive
        assert connect.startswith(f"CONNECT {HOST}:443 ")
        assert KEY not in connect
        assert all("proxy-auth" not in head.lower() for head in server.heads)
    assert all("Basic" in head for head in proxy.heads)


async def test_a_proxy_can_speak_tls_itself(ca: trustme.CA, tmp_path: Path) -> None:
    async with (
        serving(server_context(ca)) as server,
        ProxyServer(server.url).serve(server_context(ca)) as proxy,
        StabilityClient(
            KEY, base_url=f"https://{HOST}", proxy=proxy.url, ssl=ca_file(ca, tmp_path)
        ) as client,
    ):
        assert (await client.generate.core("x")).data == IMAGE


async def test_a_proxy_that_refuses_is_named_and_nothing_is_billed(
    ca: trustme.CA, tmp_path: Path
) -> None:
    async with serving(server_context(ca)) as server, ProxyServer(server.url, "a:b").serve() as one:
        for user in ("", "a:wrong@"):
            url = one.url.replace("://", f"://{user}")
            async with StabilityClient(KEY, base_url=f"https://{HOST}", proxy=url) as client:
                with pytest.raises(APIConnectionError, match=r"proxy refuses .* 407") as caught:
                    await client.generate.core("x")
            assert not caught.value.maybe_billed
            assert "wrong" not in repr(caught.value) + str(caught.value.__cause__)
    assert server.heads == []


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with StabilityClient(
        KEY, base_url=f"https://{HOST}", proxy="http://me:secret@127.0.0.1:1"
    ) as client:
        with pytest.raises(APIConnectionError, match=r"the proxy 127\.0\.0\.1:1: ") as caught:
            await client.generate.core("x")
    assert not caught.value.maybe_billed
    assert "secret" not in str(caught.value)


async def test_an_address_that_cannot_be_asked_is_not_billed() -> None:
    url = "http://1.2.3.4.5.6"
    # Which of them depends on the version of aiohttp.
    said = r"the address is not valid|cannot connect to 1\.2\.3\.4\.5\.6"
    async with StabilityClient(KEY, base_url=url, quota=None, proxy=False) as client:
        with pytest.raises(APIConnectionError, match=said) as caught:
            await client.generate.core("x")
    assert not caught.value.maybe_billed


async def test_no_proxy_and_false_lead_straight_to_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving() as server:
        async with StabilityClient(KEY, base_url=server.url) as client:
            await client.generate.core("x")  # loopback is never reached through a proxy
        port = server.url.rpartition(":")[2]
        local = socket.gethostname()
        assert resolve_proxy(f"http://{local}:{port}", None) is not None
        monkeypatch.setenv("NO_PROXY", local)
        assert resolve_proxy(f"http://{local}:{port}", None) is None
        assert resolve_proxy(f"http://{local}:{port}", proxy=False) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "bypassed"),
    [
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "example.org", False),
        ("", "api.stability.ai", False),
        ("*", "api.stability.ai", True),
        ("stability.ai", "api.stability.ai", True),
        (".stability.ai", "api.stability.ai", True),
        (".stability.ai", "stability.ai", True),
        ("ability.ai", "api.stability.ai", False),
        ("API.Stability.AI", "api.stability.ai.", True),
        ("a.test, stability.ai", "api.stability.ai", True),
        ("a.test stability.ai", "api.stability.ai", True),
        ("stability.ai:443", "api.stability.ai", True),
        ("stability.ai:80", "api.stability.ai", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("0.1.2.3", "10.1.2.3", False),
        ("[fd00::1]", "fd00::1", True),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]:80", "fd00::1", False),
        (",", "api.stability.ai", False),
        (".", "api.stability.ai", False),
    ],
)
def test_no_proxy_is_read_as_curl_and_go_read_it(no_proxy: str, host: str, bypassed: bool) -> None:
    assert bypasses(no_proxy, host, 443) is bypassed


@pytest.mark.parametrize(
    "proxy",
    ["socks5://me:secret@h:1", "http://", "http://me:secret@h:99999", "h:port", "file:///x"],
)
@pytest.mark.parametrize("by", ["proxy", "HTTPS_PROXY"])
def test_a_proxy_that_is_none_is_refused_and_its_password_not_shown(
    proxy: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigurationError, match=by) as caught:
        StabilityClient(KEY, proxy=proxy if by == "proxy" else None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", [True, 8080])
def test_a_proxy_that_is_no_text_is_refused(proxy: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"proxy is {proxy}; allowed: a URL"):
        StabilityClient(KEY, proxy=proxy)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("proxy.test:3128", "http://proxy.test:3128"),
        ("http://[fd00::1]:3128/", "http://[fd00::1]:3128"),
        ("https://proxy.test", "https://proxy.test"),
    ],
)
def test_a_proxy_may_leave_out_what_is_clear(given: str, url: str) -> None:
    proxy = resolve_proxy("https://api.stability.ai", given)
    assert proxy is not None
    assert (proxy.url, proxy.headers) == (url, {})


def test_all_proxy_serves_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://all.test:1")
    monkeypatch.setenv("HTTP_PROXY", "http://plain.test:1")
    found = resolve_proxy("https://api.stability.ai", None)
    assert found is not None
    assert found.url == "http://all.test:1"


@pytest.mark.parametrize("by", ["path", "context", "environment"])
async def test_a_companys_ca_is_trusted_where_it_is_named(
    by: str, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ca_file(ca, tmp_path)
    trusted: ssl.SSLContext | Path | None = path
    if by == "context":
        trusted = ssl.create_default_context(cafile=path)
    elif by == "environment":
        trusted = None
        monkeypatch.setenv("SSL_CERT_FILE", str(path))  # after aiohttp was imported
    async with (
        serving(server_context(ca)) as server,
        StabilityClient(KEY, base_url=server.url, ssl=trusted) as client,
    ):
        assert (await client.generate.core("x")).data == IMAGE


async def test_an_unknown_ca_is_named_as_the_cause_with_its_cure(ca: trustme.CA) -> None:
    async with (
        serving(server_context(ca)) as server,
        StabilityClient(KEY, base_url=server.url, quota=None) as client,
    ):
        with pytest.raises(APIConnectionError, match=r"certificate .*SSL_CERT_FILE") as caught:
            await client.generate.core("x")
    assert not caught.value.maybe_billed
    assert server.heads == []


async def test_a_client_certificate_goes_with_the_context(ca: trustme.CA, tmp_path: Path) -> None:
    demanding = server_context(ca)
    demanding.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(demanding)
    context = ssl.create_default_context(cafile=ca_file(ca, tmp_path))
    ca.issue_cert("client@company.test").configure_cert(context)
    async with serving(demanding) as server:
        async with StabilityClient(KEY, base_url=server.url, ssl=context) as client:
            await client.generate.core("x")
        without = StabilityClient(KEY, base_url=server.url, ssl=tmp_path / "company.pem")
        async with without as client:
            with pytest.raises(APIConnectionError):
                await client.generate.core("x")
    (peer,) = server.peers
    assert "client@company.test" in str(peer)


@pytest.mark.parametrize("by", ["ssl", "SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("content", [None, b"no certificates"])
def test_a_bundle_that_is_none_is_refused_at_once(
    by: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    if by != "ssl":
        monkeypatch.setenv(by, str(path))
    with pytest.raises(ConfigurationError, match=f"{by} is .*bundle.pem"):
        StabilityClient(KEY, ssl=path if by == "ssl" else None)


@pytest.mark.parametrize(
    "settings", [{"ssl": False}, {"ssl": 7}, {"session": "x"}], ids=["off", "number", "session"]
)
def test_what_means_nothing_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(settings))} is a"):
        StabilityClient(KEY, **settings)  # type: ignore[arg-type]


async def test_a_session_of_the_callers_lends_its_connections_and_stays_open() -> None:
    made = []

    def factory(address: aiohttp.AddrInfoType) -> socket.socket:
        made.append(address)
        return socket.socket(*address[:3])

    async with (
        serving() as server,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=factory),
            headers={"X-Theirs": "1"},
            cookies={"theirs": "1"},
            timeout=aiohttp.ClientTimeout(total=1e-9),
        ) as session,
    ):
        for _ in range(2):
            async with StabilityClient(KEY, base_url=server.url, session=session) as client:
                await client.generate.core("x")
        assert not session.closed
        assert len(made) == 1, "the connection is kept for the next client"
    assert all("theirs" not in head.lower() for head in server.heads)
    assert all("cookie" not in head.lower() for head in server.heads)


async def test_a_closed_session_or_one_of_another_loop_is_refused() -> None:
    session = aiohttp.ClientSession()
    client = StabilityClient(KEY, session=session)

    def elsewhere() -> StabilityError | None:
        async def opened() -> None:
            async with client:
                pass

        try:
            asyncio.run(opened())
        except StabilityError as error:
            return error
        return None

    assert isinstance(await asyncio.to_thread(elsewhere), WrongEventLoopError)
    async with client:
        await session.close()
        with pytest.raises(ConfigurationError, match="session is closed"):
            await client.generate.core("x")
    with pytest.raises(ConfigurationError, match="session is closed"):
        await client.open()
    with pytest.raises(ConfigurationError, match="session is closed"):
        StabilityClient(KEY, session=session)


async def test_connections_are_kept_alive_by_the_system() -> None:
    """A NAT that forgets silent connections must neither lose an image nor be noticed late."""
    async with serving() as server, StabilityClient(KEY, base_url=server.url) as client:
        await client.generate.core("x")
        connector = client._session.pool.connector
        assert connector is not None
        ((idle,),) = connector._conns.values()
        assert idle[0].transport is not None
        one = idle[0].transport.get_extra_info("socket")
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


async def test_a_cookie_is_never_sent_back_and_a_redirect_never_followed() -> None:
    seen = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        seen.append(await connection.head())
        headers = "Set-Cookie: a=1\r\nLocation: /x\r\nConnection: close\r\n"
        status = "200 OK" if len(seen) == 1 else "307 Elsewhere"
        await connection.send(
            answer(
                IMAGE,
                status=status,
                headers=headers,
            )
        )
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with StabilityClient(KEY, base_url=url) as client:
            await client.generate.core("x")
            with pytest.raises(StabilityError):
                await client.generate.core("x")
    assert len(seen) == 2
    assert all("cookie" not in head.lower() for head in seen)


async def test_a_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with serving() as server, StabilityClient(KEY, base_url=server.url) as client:
        await client.generate.core("x")
    assert f"Authorization: Bearer {KEY}" in server.heads[0]
