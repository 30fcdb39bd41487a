"""The doctor: each line ok or with what to do, and the facts held against an API."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
import tomllib
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from stable_async.cli.app import run
from stable_async.cli.doctor import EXTRAS
from stable_async.config import Quota
from stable_async.quota import QuotaLimiter, quota_of
from stable_async.sandbox import SandboxSettings, start_sandbox
from tests.raw_server import Connection, answer, raw_server
from tests.sandbox.test_probing import field, raw_facts
from tests.transport.proxy_server import ProxyServer, pipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stable_async.sandbox import SandboxProcess

KEY = "sk-of-the-doctors-test"


def test_the_doctor_looks_for_all_extras_of_all() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    extras = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"stable_async[{','.join(EXTRAS)}]"


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox(SandboxSettings(counting="off")) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: SandboxProcess, monkeypatch: pytest.MonkeyPatch) -> SandboxProcess:
    process.reset()
    monkeypatch.setenv("STABILITY_API_KEY", KEY)
    monkeypatch.setenv("STABILITY_BASE_URL", process.url)
    return process


def lines(output: str) -> dict[str, tuple[str, str]]:
    """Return the word and the state of each subject."""
    found = {}
    for line in output.splitlines():
        if not line.startswith(" "):
            word, rest = line[:3].strip(), line[5:]
            subject, _, state = rest.partition("  ")
            found[subject.strip()] = (word, state.strip())
    return found


def test_all_is_well(sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    output = capsys.readouterr().out
    assert {word for word, _ in lines(output).values()} == {"ok"}
    assert lines(output)["account"] == ("ok", "the key is accepted; 1,000,000.00 credits")
    assert "150 in use" in lines(output)["quota"][1]
    assert KEY not in output


def test_the_folder_is_the_one_that_the_quota_uses(
    sandbox: SandboxProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(["doctor"]) == 0
    found = lines(capsys.readouterr().out)
    assert found["cache folder"] == ("ok", str(tmp_path / f"stable_async-{os.getuid()}"))
    assert "all programs on this machine" in found["quota"][1]
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/none")
    assert run(["doctor"]) == 1
    found = lines(capsys.readouterr().out)
    assert found["cache folder"][0] == "FIX"
    assert found["quota"][1].startswith("for this program only")


def test_a_quota_that_gives_no_permit_is_told_instead_of_waited_for(
    sandbox: SandboxProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stable_async.cli.doctor.QUOTA_SECONDS", 0.3)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        assert run(["doctor", "--shared-quota", f"redis://127.0.0.1:{port}/0"]) == 1
    output = capsys.readouterr().out
    assert lines(output)["quota"] == (
        "FIX",
        "shared in Redis on 127.0.0.1; no permit within 0.3 s",
    )
    assert "account" not in lines(output)


def test_a_penalty_is_told_instead_of_waited_for(
    sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    async def breach() -> None:
        limiter = QuotaLimiter(quota_of(Quota(), KEY, sandbox.url))
        await limiter.open()
        limiter.penalise(600.0)
        await limiter.aclose()

    asyncio.run(breach())
    assert run(["doctor"]) == 1
    output = capsys.readouterr().out
    assert lines(output)["quota"][0] == "FIX"
    assert "the penalty ends in 600 s" in output


def test_without_a_key_the_machine_is_looked_at_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["doctor"]) == 1
    output = capsys.readouterr().out
    assert lines(output)["settings"][0] == "FIX"
    assert "STABILITY_API_KEY" in output
    assert lines(output)["disk"]


@pytest.mark.parametrize(
    ("faults", "key", "state", "to_do"),
    [
        ({}, "sk-invalid", "the key is not accepted", "account/keys"),
        (
            {"edge": {"kind": "firewall"}},
            KEY,
            "403, not an answer",
            "something in front of the API",
        ),
        ({"edge": {"kind": "cdn_521"}}, KEY, "521, not an answer", "something in front"),
        ({"exhaust_credits": {}}, KEY, "0 credits", "account/credits"),
        ({"penalty": {"seconds": 60}}, KEY, "the quota is breached", "wait 60 s"),
        ({"fail_next": {"status": 500}}, KEY, "500 server_error", "check the account"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    sandbox: SandboxProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faults: dict[str, object],
    key: str,
    state: str,
    to_do: str,
) -> None:
    if faults:
        sandbox.set_faults(**faults)
    monkeypatch.setenv("STABILITY_API_KEY", key)
    assert run(["doctor"]) == 1
    output = capsys.readouterr().out
    word, found = lines(output)["account"]
    assert word == "FIX"
    assert state in found
    assert to_do in output
    assert key not in output


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (answer(b"<title>Sign in</title>", content_type="text/html"), "200, not an answer"),
        (answer(b'{"credits":NaN}', content_type="application/json"), "200, not an answer"),
        (b"", "no answer: ServerDisconnectedError"),
        (None, "no answer: TimeoutError"),
    ],
)
async def test_what_else_answers_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reply: bytes | None,
    state: str,
) -> None:
    async def reply_once(connection: Connection) -> None:
        await connection.request()
        if reply is None:
            await connection.reader.read()  # until the client gives up
        else:
            await connection.send(reply)

    monkeypatch.setenv("STABILITY_API_KEY", KEY)
    monkeypatch.setattr("stable_async.cli.doctor.CONNECT_SECONDS", 0.5)
    async with raw_server(reply_once) as url:
        assert await asyncio.to_thread(run, ["doctor", "--base-url", url]) == 1
    assert state in lines(capsys.readouterr().out)["account"][1]


def test_nobody_at_the_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STABILITY_API_KEY", KEY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert run(["doctor", "--base-url", f"http://127.0.0.1:{port}"]) == 1
    output = capsys.readouterr().out
    assert lines(output)["network"][0] == "FIX"
    assert "account" not in lines(output)


def test_a_clock_that_is_off_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stable_async.cli.doctor import _clock

    assert not _clock(formatdate(time.time(), usegmt=True)).to_do
    assert "NTP" in _clock(formatdate(time.time() - 3600, usegmt=True)).to_do
    assert not _clock("no date").to_do


def test_each_line_is_in_the_json(
    sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"subject", "state", "to_do"} == checks[0].keys()
    assert "account" in {check["subject"] for check in checks}


def test_the_facts_hold_against_the_sandbox(
    sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--probe", "--no-quota"]) == 0
    output = capsys.readouterr().out
    assert " 0 differ" in output
    assert "0 credits" in output
    assert sandbox.bill()["credits"] == 0
    assert KEY not in output


def test_a_difference_is_reported_with_the_answer_and_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = raw_facts()
    field(raw, "generate_core", "seed")["max"] = 100
    path = tmp_path / "facts.yaml"
    path.write_text(json.dumps(raw))
    monkeypatch.setenv("STABILITY_API_KEY", KEY)
    with start_sandbox(SandboxSettings(counting="off", facts=str(path))) as other:
        command = ["doctor", "--probe", "--no-quota", "--base-url", other.url]
        assert run(command) == 3
        output = capsys.readouterr().out
        assert "differs  generate_core.seed.max (documented): is at most 4294967294" in output
        assert "greatest: refused; 400" in output
        assert run([*command, "--credits", "3", "--json"]) == 3
        found = json.loads(capsys.readouterr().out)
        assert found["differ"] == 1
        assert 0 < found["credits"] <= 3


def test_probing_keeps_to_the_quota(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server with the real ceiling refuses none of the first requests that leave in a second."""
    from stable_async.cli.connection import Connection
    from stable_async.cli.probe import probe

    monkeypatch.setenv("STABILITY_API_KEY", KEY)

    async def for_a_while(other: SandboxProcess) -> None:
        connection = Connection(base_url=other.url)
        task = asyncio.create_task(probe(connection, 0, as_json=False))
        async with asyncio.timeout(20):
            while other.state()["statistics"]["requests"] < 150:  # type: ignore[index]
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with start_sandbox(SandboxSettings(counting="log")) as other:
        asyncio.run(for_a_while(other))
        statistics = other.state()["statistics"]
        assert statistics["refused"] == 0  # type: ignore[index]


@pytest.mark.parametrize("credits", ["-1", "inf"])
def test_credits_are_an_amount(credits: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: A002
    assert run(["doctor", "--probe", "--credits", credits]) == 2
    assert "allowed: 0 or more" in capsys.readouterr().err


@asynccontextmanager
async def behind_tls(url: str, ca: trustme.CA) -> AsyncIterator[str]:
    """Serve the sandbox over TLS, with a certificate of `ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    host, port = url.removeprefix("http://").split(":")
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(pipe(reader, back)), asyncio.create_task(pipe(there, writer))]
        tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        back.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_unknown_ca_is_named_and_one_that_is_trusted_is_shown(
    sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from stable_async.cli.connection import Connection
    from stable_async.cli.doctor import _examine

    ca = trustme.CA()
    async with behind_tls(sandbox.url, ca) as url:
        found = {check.subject: check for check in await _examine(Connection(base_url=url))}
        assert "SSL_CERT_FILE" in found["TLS"].to_do
        assert "account" not in found
        path = tmp_path / "ca.pem"
        ca.cert_pem.write_to_path(path)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        found = {check.subject: check for check in await _examine(Connection(base_url=url))}
        assert not found["TLS"].to_do
        assert "TLSv1." in found["TLS"].state
        assert "the key is accepted" in found["account"].state


async def test_a_proxy_of_the_environment_is_used_and_its_password_not_shown(
    sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_async.cli.connection import Connection
    from stable_async.cli.doctor import _examine

    proxy = ProxyServer(sandbox.url, "user:secret-word")
    async with proxy.serve():
        with_login = proxy.url.replace("://", "://user:secret-word@")
        monkeypatch.setenv("HTTP_PROXY", with_login)
        # No proxy leads to this machine, so the address is another's; the proxy leads here.
        checks = await _examine(Connection(base_url="http://192.0.2.1:80"))
        found = {check.subject: check for check in checks}
        assert "with a login" in found["proxy"].state
        assert "the key is accepted" in found["account"].state
        assert "secret-word" not in repr(checks)
        assert proxy.heads
