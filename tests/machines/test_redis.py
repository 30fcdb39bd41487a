"""A quota in a real Redis server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import subprocess
import sys
import time
import traceback
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from benchmarks.relay import Relay
from stable_async import Quota, SharedQuota, StabilityClient
from stable_async.errors import ConfigurationError, QuotaTimeoutError
from stable_async.quota import QuotaLimiter
from stable_async.quota.homes.central import LEASE, Message, Terms, script
from tests.machines.exchanges import CLOCK
from tests.machines.servers import HOST, Server, free_port, running
from tests.needs import module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

# A window so short that what a loss costs is little more than the lease.
QUOTA = Quota(requests=20, window=0.3, jitter=0.02, penalty=1.0, adaptive=False)
HOLD = LEASE + QUOTA.window + QUOTA.jitter
PASSWORD = "pass-wörd!"


def name() -> str:
    return uuid.uuid4().hex


def settle(server: Server, quota_name: str, quota: Quota = QUOTA) -> None:
    """Make a quota whose state has been known for long: its first start is over."""
    terms = Terms(
        requests=quota.requests,
        window=quota.window,
        penalty=quota.penalty,
        jitter=quota.jitter,
        adaptive=quota.adaptive,
        lease=LEASE,
    )
    message = Message(
        process="long ago", seq=1, epoch="", number=0, clock=[], terms=terms, open=[], sent=[],
        refusals=[], delays={}, want=(0, 0), ahead=0.0, penalty_left=0.0, share=1.0, leaving=True,
    )  # fmt: skip
    with server.client() as client:
        run = client.register_script(script().replace(CLOCK, "{ARGV[2], ARGV[3]}"))
        key = f"{{stable_async:{quota_name}}}:quota"
        run(keys=[key], args=[json.dumps(message), int(time.time()) - 60, 0])


@asynccontextmanager
async def limiter_at(url: str, quota_name: str) -> AsyncIterator[QuotaLimiter]:
    """Open a limiter as another process would: limiters of one process share a connection."""
    limiter = QuotaLimiter(QUOTA, home=SharedQuota.redis(url, quota_name, QUOTA).home())
    await limiter.open()
    try:
        yield limiter
    finally:
        await limiter.aclose()


async def send(limiter: QuotaLimiter, count: int = 1) -> None:
    async def one() -> None:
        while not (await limiter.acquire()).mark_sent():
            pass

    await asyncio.gather(*(one() for _ in range(count)))


async def test_two_limiters_share_one_quota(shared_redis: Server) -> None:
    quota_name = name()
    settle(shared_redis, quota_name)
    async with (
        limiter_at(shared_redis.url, quota_name) as one,
        limiter_at(shared_redis.url, quota_name) as other,
    ):
        await asyncio.gather(send(one, 15), send(other, 15))
        await asyncio.sleep(0.05)
        assert one.statistics().granted + other.statistics().granted == 30


async def test_processes_share_one_quota(shared_redis: Server) -> None:
    """Other processes find what this one has used up."""
    quota_name = name()
    settle(shared_redis, quota_name, Quota())
    program = (
        "import asyncio, os\n"
        "from stable_async.quota import QuotaLimiter, SharedQuota\n"
        "async def main():\n"
        "    limiter = QuotaLimiter(SharedQuota.redis(os.environ['URL'], os.environ['NAME']))\n"
        "    await limiter.open()\n"
        "    for _ in range(100):\n"
        "        (await limiter.acquire()).mark_sent()\n"
        "    await limiter.aclose()\n"
        "    print(limiter.statistics().in_window)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "URL": shared_redis.url, "NAME": quota_name}
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], env=environment, check=True
    )
    limiter = QuotaLimiter(SharedQuota.redis(shared_redis.url, quota_name))
    await limiter.open()
    assert limiter.statistics().in_window == 100
    await limiter.aclose()


async def test_the_variable_names_a_server(
    shared_redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By key and address, so that clients of two keys do not share."""
    monkeypatch.setenv("STABILITY_SHARED_QUOTA", shared_redis.url)
    with shared_redis.client() as plain:
        before = set(plain.keys())
        for key in ("sk-one", "sk-two"):
            async with StabilityClient(key, base_url="http://127.0.0.1:9"):
                pass
        made = {entry.decode() for entry in set(plain.keys()) - before}
    assert len(made) == 2
    assert not any("sk-" in entry for entry in made)


async def test_a_first_start_says_why_it_waits(
    shared_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with limiter_at(shared_redis.url, name()) as limiter:
            began = time.monotonic()
            await send(limiter)
            assert time.monotonic() - began > HOLD - 0.5
    assert "starts over because it was empty" in caplog.text
    assert f"nothing is sent for {HOLD:.3g} s" in caplog.text


async def test_a_restarted_server_has_lost_the_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quota_name = name()
    with running(tmp_path) as server:
        settle(server, quota_name)
        async with limiter_at(server.url, quota_name) as limiter:
            await send(limiter, 5)
            server.stop()
            waiting = asyncio.ensure_future(send(limiter))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            server.start()
            restarted = time.monotonic()
            await waiting
            assert time.monotonic() - restarted > HOLD - 0.5
    assert "cannot be reached" in caplog.text
    assert "starts over" in caplog.text


async def test_requests_wait_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    """A deadline applies as usual."""
    server = Server(tmp_path)
    quota_name = name()
    try:
        async with limiter_at(server.url, quota_name) as limiter:
            with pytest.raises(QuotaTimeoutError):
                await limiter.acquire(deadline=0.3)
            waiting = asyncio.ensure_future(send(limiter))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            settle(server, quota_name)
            await waiting
    finally:
        server.stop()


async def test_a_password_is_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from urllib.parse import quote

    with running(tmp_path, "--requirepass", PASSWORD) as server:
        address = f"{HOST}:{server.port}/0"
        async with limiter_at(f"redis://:{quote(PASSWORD)}@{address}", name()) as limiter:
            assert limiter.statistics().requests == QUOTA.requests
        texts = []
        for user in (":wr0ng-one@", ""):
            quota = SharedQuota.redis(f"redis://{user}{address}", name(), QUOTA)
            with pytest.raises(ConfigurationError) as caught:
                await QuotaLimiter(quota).open()
            texts += [repr(quota), *traceback.format_exception(caught.value)]
        assert f"redis://{address}: it requires a password" in str(caught.value)
    shown = "".join(texts) + caplog.text
    assert "wr0ng-one" not in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cret@host",
        "redis://:s3cret@",
        "redis://:s3cret@host:port",
        "redis://:s3cret@host/first",
        "redis+sentinel://:s3cret@host",
        "rediss://:s3cret@host?db=first",
    ],
)
def test_an_url_that_makes_no_sense_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SharedQuota.redis(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "redis://[[user]:password@]host" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((None,), "url is None"),  # as os.environ.get returns it
        ((b"redis://h",), "url is bytes"),
        (("redis://h", QUOTA), "name is Quota"),  # the second argument of SharedQuota.file
        (("redis://h", ""), "name is ''"),
        (("redis://h", 7), "name is 7"),
    ],
)
def test_an_argument_of_another_type_is_refused(
    arguments: tuple[object, ...], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{problem}; allowed"):
        SharedQuota.redis(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("redis://h/0?timeout=20", "timeout"),
        ("redis://h/0?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("redis+sentinel://h/service?s3cret=1", "s3cret"),
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "CERT_NONE"),
        ("rediss://h/0?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs is '/nowhere/ca.pem'"),
        ("rediss+sentinel://h/service?ssl_ca_path=/nowhere", "ssl_ca_path is '/nowhere'"),
    ],
)
def test_an_option_that_redis_does_not_take_is_named(options: str, problem: str) -> None:
    """Such as one for another library, whose URL was copied."""
    with pytest.raises(ConfigurationError, match=problem):
        SharedQuota.redis(options)


async def test_options_that_a_single_connection_does_not_need_are_ignored(
    shared_redis: Server,
) -> None:
    url = f"{shared_redis.url}?max_connections=20&socket_timeout=0.5&decode_responses=true"
    async with limiter_at(url, name()) as limiter:
        assert limiter.statistics().requests == QUOTA.requests


async def test_a_node_of_a_cluster_that_has_not_the_key_says_which_one_has() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [
                await reader.readexactly(int((await reader.readline())[1:]) + 2)
                for _ in range(int(line[1:]))
            ]
            moved = words[0].startswith(b"EVALSHA")
            writer.write(b"-MOVED 8 10.0.0.2:7001\r\n" if moved else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConfigurationError, match=r"cluster.* 10\.0\.0\.2:7001"):
            async with limiter_at(f"redis://{HOST}:{port}/0", name()):
                pass


async def test_other_terms_in_one_event_loop_are_refused_as_well(shared_redis: Server) -> None:
    """Clients of one loop share a queue and a connection only if their terms agree."""
    quota_name = name()
    one = QuotaLimiter(SharedQuota.redis(shared_redis.url, quota_name, Quota(requests=50)))
    await one.open()
    other = QuotaLimiter(SharedQuota.redis(shared_redis.url, quota_name, Quota(requests=60)))
    with pytest.raises(ConfigurationError, match="requests 50 there and 60 here"):
        await other.open()
    await one.aclose()
    await other.aclose()


async def test_tls_is_spoken_and_certificates_are_checked(
    shared_redis: Server, tmp_path: Path
) -> None:
    trustme = module("trustme")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    relay = Relay(shared_redis.port, tls=context)
    await relay.start()
    quota_name = name()
    settle(shared_redis, quota_name)
    address = f"rediss://{HOST}:{relay.port}/0"
    try:
        async with limiter_at(f"{address}?ssl_ca_certs={tmp_path / 'ca.pem'}", quota_name) as one:
            await send(one, 3)
        with pytest.raises(ConfigurationError, match="certificate"):
            async with limiter_at(address, quota_name):
                pass
    finally:
        await relay.stop()


async def test_a_user_without_a_permission_is_told_which(tmp_path: Path) -> None:
    rights = "user quota on >pw ~{stable_async:* +evalsha +script|load +get +set +time"
    with running(tmp_path) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", *rights.split()[1:])
        url = f"redis://quota:pw@{HOST}:{server.port}/0"
        with pytest.raises(ConfigurationError, match="may not run INFO"):
            async with limiter_at(url, name()):
                pass
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "quota", "+info")
        async with limiter_at(url, name()):
            pass


async def test_what_is_no_redis_is_waited_for_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with limiter_at(f"redis://{HOST}:{port}/0", name()) as limiter:
        with pytest.raises(QuotaTimeoutError):
            await limiter.acquire(deadline=0.2)
    assert "cannot be reached" in caplog.text
    server.close()
    await server.wait_closed()


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        quota_name = name()
        settle(server, quota_name)
        async with limiter_at(server.url, quota_name) as limiter:
            with server.client() as client:
                client.config_set("maxmemory", 1)
                client.config_set("maxmemory-policy", "noeviction")
                with pytest.raises(QuotaTimeoutError):
                    await limiter.acquire(deadline=0.3)
                client.config_set("maxmemory", 0)
            await send(limiter)


async def test_an_evicted_key_is_a_lost_state(shared_redis: Server) -> None:
    quota_name = name()
    settle(shared_redis, quota_name)
    async with limiter_at(shared_redis.url, quota_name) as limiter:
        await send(limiter, 20)
        with shared_redis.client() as client:
            client.delete(f"{{stable_async:{quota_name}}}:quota")
        began = time.monotonic()
        await send(limiter)
        assert time.monotonic() - began > HOLD - 0.5


async def test_sentinels_name_the_master_also_after_a_failover(tmp_path: Path) -> None:
    folders = [tmp_path / part for part in ("master", "replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    port = free_port()
    settings = folders[2] / "sentinel.conf"
    with running(folders[0], "--repl-diskless-sync-delay", "0") as master:
        settings.write_text(
            f"port {port}\nbind {HOST}\nsentinel monitor ours {HOST} {master.port} 1\n"
            "sentinel down-after-milliseconds ours 300\nsentinel failover-timeout ours 1000\n"
        )
        replica = Server(folders[1], "--replicaof", HOST, str(master.port))
        sentinel = Server(folders[2], port=port)
        try:
            replica.start()
            # A sentinel asks for the replicas as it starts, and then every 10 s only.
            with master.client() as client:
                await eventually(
                    lambda: client.info("replication").get("slave0", {}).get("state") == "online"
                )
            sentinel.start_sentinel(settings)
            with sentinel.client() as client:
                await eventually(lambda: len(client.sentinel_slaves("ours")) == 1)
            quota_name = name()
            settle(master, quota_name)
            url = f"redis+sentinel://{HOST}:{port}/ours/0"
            async with limiter_at(url, quota_name) as limiter:
                await send(limiter, 5)
                master.stop()
                await send(limiter, 5)
            with replica.client() as client:
                assert client.exists(f"{{stable_async:{quota_name}}}:quota")
        finally:
            sentinel.stop()
            replica.stop()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not holds():
            await asyncio.sleep(0.05)
