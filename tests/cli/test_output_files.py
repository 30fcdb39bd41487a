"""`generate` and `results get`: the file is proved before anything is sent, and nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from stable_async.files import prove_writable
from tests.raw_server import answer, raw_server
from tests.samples import mp3, sample_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Command
    from tests.raw_server import Connection

PNG = sample_image()
ID = "7f/odd id"
RUNNING = answer(b'{"id":"x","status":"in-progress"}', status="202 Accepted")


class Server:
    """Answers each request in turn; the last answer again and again."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self.then: Callable[[], object] = lambda: None

    async def __call__(self, connection: Connection) -> None:
        head = await connection.head()
        self.requests.append(head.partition(" HTTP/")[0])
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await connection.reader.readexactly(int(length or 0))
        self.then()
        reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await connection.send(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


@pytest.mark.parametrize("target", ["file/x.png", "folder.png", "pipe.png", f"{'x' * 260}.png"])
async def test_a_file_that_cannot_be_written_is_known_before_anything_is_sent(
    target: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    server = Server(answer(PNG))
    async with raw_server(server) as url:
        made = await command("generate", "core", "a fox", "-o", target, "--base-url", url)
        got = await command("results", "get", ID, "-o", target, "--base-url", url)
    assert (made.status, got.status) == (1, 1)
    assert target in made.errors
    assert target in got.errors
    assert server.requests == []


async def test_a_folder_that_is_missing_is_made(command: Command, tmp_path: Path) -> None:
    async with raw_server(Server(answer(PNG))) as url:
        made = await command("generate", "core", "a fox", "-o", "a/b/x.png", "--base-url", url)
        got = await command("results", "get", ID, "-o", "c/y.png", "--base-url", url)
    assert (made.status, got.status) == (0, 0)
    assert (tmp_path / "a/b/x.png").read_bytes() == (tmp_path / "c/y.png").read_bytes() == PNG


async def test_a_result_that_cannot_be_written_any_more_is_kept_elsewhere(
    command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    server = Server(answer(PNG))
    server.then = folder.rmdir  # while the image is being made
    async with raw_server(server) as url:
        ended = await command(
            "generate", "core", "a fox", "-o", "out/x.png", "--base-url", url, "--json"
        )
    assert ended.status == 1
    facts = json.loads(ended.output)
    assert "out/x.png: No such file or directory" in facts["problem"]
    spooled = Path(facts["file"])
    assert spooled.read_bytes() == PNG
    spooled.unlink()


async def test_what_was_paid_for_and_not_fetched_is_fetched(
    command: Command, tmp_path: Path
) -> None:
    server = Server(answer(PNG, headers="seed: 7\r\n"), answer(mp3(0.1)))
    async with raw_server(server) as url:
        image = await command("results", "get", ID, "-o", "x.png", "--base-url", url, "--json")
        audio = await command("results", "get", "-7f", "-o", "x.mp3", "--base-url", url)
    assert (image.status, image.errors) == (0, "")
    facts = json.loads(image.output)
    assert (facts["file"], facts["bytes"], facts["seed"]) == ("x.png", len(PNG), 7)
    assert (tmp_path / "x.png").read_bytes() == PNG
    assert audio.output == "x.mp3: audio/mpeg\n"
    assert server.requests == [
        "GET /v2beta/results/7f%2Fodd%20id",
        "GET /v2beta/audio/results/-7f",
    ]


@pytest.mark.parametrize("reply", [RUNNING, answer(b"<html>", status="502 x")])
async def test_a_generation_that_is_not_ready_is_named(reply: bytes, command: Command) -> None:
    async with raw_server(Server(reply)) as url:
        ended = await command(
            *("results", "get", "7f", "-o", "x.png", "--wait", "0"), "--base-url", url
        )
    assert ended.status == 1
    assert "generation 7f" in ended.errors
    assert "within 0 s" in ended.errors


async def test_an_id_that_the_api_does_not_know_is_not_called_paid(command: Command) -> None:
    body = b'{"id":"x","name":"not_found","errors":["no such generation"]}'
    async with raw_server(Server(answer(body, status="404 Not Found"))) as url:
        ended = await command("results", "get", "7f", "-o", "x.png", "--base-url", url)
    assert ended.status == 1
    assert "no such generation" in ended.errors
    assert "paid" not in ended.errors


async def test_a_result_of_another_format_is_kept_and_said(
    command: Command, tmp_path: Path
) -> None:
    async with raw_server(Server(answer(PNG, content_type="image/jpeg"))) as url:
        ended = await command("generate", "core", "a fox", "-o", "x.jpg", "--base-url", url)
    assert ended.status == 0
    assert "the file is image/png" in ended.output
    assert (tmp_path / "x.jpg").read_bytes() == PNG


@pytest.mark.parametrize("identity", ["..", "", "x" * 2000])
def test_an_id_that_cannot_be_one_is_wrong_usage(
    identity: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["results", "get", identity, "-o", str(tmp_path / "x.png")]) == 2
    assert "id" in capsys.readouterr().err


def test_proving_a_file_leaves_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    prove_writable(target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert target.read_bytes() == b"old"
