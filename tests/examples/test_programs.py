"""The short programs do what they say, in processes of their own, against a sandbox."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import PIL.Image
import pytest
import trustme
from fastapi.testclient import TestClient
from nbclient import NotebookClient

from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import SandboxProcess, start_sandbox
from tests.samples import sample_image
from tests.transport.proxy_server import ProxyServer, pipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[2]
KEY = "sk-programs-0123456789"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox(SandboxSettings()) as one:
        yield one


def environment(url: str, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "STABILITY_API_KEY": KEY,
        "STABILITY_BASE_URL": url,
        "PYTHONPATH": str(ROOT),
        **variables,
    }


def opened(path: Path) -> tuple[str | None, tuple[int, int]]:
    with PIL.Image.open(path) as image:
        return image.format, image.size


async def run(
    program: str, *arguments: str, url: str, folder: Path, **variables: str
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"examples.{program}",
        *arguments,
        cwd=folder,
        env=environment(url, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_augmentation_takes_and_returns_pixels(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(sample_image(300, 200))
    status, _, errors = await run(
        "augment", "photo.png", "variations", url=sandbox.url, folder=tmp_path
    )
    assert status == 0, errors
    made = sorted((tmp_path / "variations").iterdir())
    assert len(made) == 9
    assert {opened(path)[1] for path in made} == {(256, 256)}


async def test_tasks_of_a_queue_have_a_loop_each(sandbox: SandboxProcess, tmp_path: Path) -> None:
    prompts = [f"a lighthouse {number}" for number in range(6)]
    status, output, errors = await run("worker", *prompts, url=sandbox.url, folder=tmp_path)
    assert status == 0, errors
    assert sorted(output.split()) == sorted(path.name for path in tmp_path.iterdir())
    assert len(output.split()) == 6


async def test_the_proxy_of_a_company_is_named_by_its_environment(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    async with ProxyServer(sandbox.url, "me:secret").serve() as proxy:
        url = proxy.url.replace("://", "://me:secret@")
        status, _, errors = await run(
            "behind_a_proxy", "a.png", url=sandbox.url, folder=tmp_path, COMPANY_PROXY=url
        )
        assert status == 0, errors
        assert proxy.heads
        status, _, errors = await run(
            "behind_a_proxy", "b.png", url="http://api.test", folder=tmp_path, HTTP_PROXY=url[:-1]
        )
        assert status == 1
        assert "nothing was paid" in errors
        assert "secret" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@asynccontextmanager
async def gateway(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """Speak TLS before the sandbox."""
    host, port = url.removeprefix("http://").split(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_gateway_with_a_private_ca_asks_for_a_certificate(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours = ca.issue_cert("worker@company.test")
    ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    async with gateway(sandbox.url, context) as url:
        status, _, errors = await run(
            "private_ca", "ca.pem", "client.pem", "a.png", url=url, folder=tmp_path
        )
    assert status == 0, errors
    assert opened(tmp_path / "a.png")[0] == "PNG"


def test_a_request_model_is_the_body_of_a_service(
    sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.fastapi_model import app

    monkeypatch.setenv("STABILITY_API_KEY", KEY)
    monkeypatch.setenv("STABILITY_BASE_URL", sandbox.url)
    with TestClient(app) as service:
        made = service.post("/images", json={"prompt": "a lighthouse", "output_format": "webp"})
        assert (made.status_code, made.headers["content-type"]) == (200, "image/webp")
        refused = service.post("/images", json={"prompt": "", "negative_promt": "x"})
        assert refused.status_code == 422
        places = [error["loc"][-1] for error in refused.json()["detail"]]
        assert places == ["prompt", "negative_promt"]
        larger = service.post("/upscaled", files={"image": sample_image(64, 64)})
        assert (larger.status_code, larger.headers["content-type"]) == (200, "image/png")
        broken = service.post("/upscaled", files={"image": b"no image"})
        assert (broken.status_code, broken.json()["error"]) == (422, "invalid_request")
        assert "GenerateCore" in service.get("/openapi.json").json()["components"]["schemas"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own
async def test_a_notebook_shows_images(
    sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(sandbox.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    await NotebookClient(notebook, timeout=50, kernel_name="python3").async_execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output[0].data if output else {} for output in outputs]
    assert [sorted(data) for data in shown] == [
        [],
        ["image/png", "text/plain"],
        ["text/plain"],
        ["text/html", "text/plain"],
        [],
    ]
    assert shown[1]["text/plain"].startswith("Image(content_type='image/png', seed=7")
    assert shown[2]["text/plain"] == "(1536, 1536, 7, 3)"
    assert shown[3]["text/html"].startswith('<img src="data:image/webp;base64,')
