"""The fixtures, as test suites of applications use them: in a pytest of their own."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.sandbox.support import sample_image

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
import os, urllib.request
import pytest

def ask(sandbox, prompt="x"):
    body = (b'--b\\r\\nContent-Disposition: form-data; name="prompt"\\r\\n\\r\\n'
            + prompt.encode() + b'\\r\\n--b--\\r\\n')
    request = urllib.request.Request(
        os.environ["STABILITY_BASE_URL"] + "/v2beta/stable-image/generate/core", body,
        {"authorization": os.environ["STABILITY_API_KEY"], "accept": "image/*",
         "content-type": "multipart/form-data; boundary=b"})
    return urllib.request.urlopen(request).status

@pytest.mark.parametrize("number", range(8))
def test_each_has_its_own(stability_sandbox, number):
    assert ask(stability_sandbox) == 200
    assert len(stability_sandbox.log) == 1
    assert stability_sandbox.url == os.environ["STABILITY_BASE_URL"]
    assert "STABILITY_SHARED_QUOTA" not in os.environ
"""
SESSION = (
    FUNCTION
    + """
@pytest.fixture(autouse=True)
def fresh(stability_sandbox_session):
    stability_sandbox_session.reset()

urls = set()

@pytest.mark.parametrize("number", range(20))
def test_all_have_one(stability_sandbox_session, number):
    urls.add(stability_sandbox_session.url)
    assert len(urls) == 1
    assert ask(stability_sandbox_session) == 200
    assert stability_sandbox_session.statistics.requests == 1
"""
)
MODULE = """
from test_application import ask

def test_a_module_has_one(stability_sandbox_module):
    assert ask(stability_sandbox_module) == 200
"""
CLIENT = """
from stable_async import StabilityClient

async def test_an_asynchronous_application(stability_sandbox):
    async with StabilityClient() as client:
        image = await client.edit.replace_background_and_relight(
            PNG, background_prompt="a beach")
        assert image.data
    assert stability_sandbox.log[0].operation == "edit_replace_background_and_relight"
"""
PNG = "import base64\nPNG = base64.b64decode('{}')\n"
UNITTEST = """
import unittest, urllib.request
from stable_async.sandbox import SandboxSettings, run_in_thread

class Posters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sandbox = cls.enterClassContext(run_in_thread(SandboxSettings()))

    def setUp(self):
        self.sandbox.reset()

    def test_balance(self):
        request = urllib.request.Request(
            self.sandbox.url + "/v1/user/balance", headers={"authorization": "sk-x"})
        with urllib.request.urlopen(request) as reply:
            self.assertEqual(reply.status, 200)
        self.assertEqual(len(self.sandbox.log), 1)

    def test_nothing(self):
        self.assertEqual(len(self.sandbox.log), 0)
"""


def run(folder: Path, text: str, *arguments: str) -> str:
    (folder / "test_application.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["STABILITY_SHARED_QUOTA"] = "redis://127.0.0.1:1/0"  # a developer's own
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_each_test_has_a_sandbox_of_its_own_in_each_worker(tmp_path: Path) -> None:
    assert "8 passed" in run(tmp_path, FUNCTION, "pytest", "-q", "-n", "2")


@pytest.mark.timeout(180)
def test_a_session_shares_one_that_is_reset_and_a_client_polls_it_often(tmp_path: Path) -> None:
    text = PNG.format(base64.b64encode(sample_image()).decode()) + SESSION + CLIENT
    (tmp_path / "test_module.py").write_text(MODULE)
    options = ("-o", "asyncio_mode=auto", "-p", "no:xdist")
    assert "30 passed" in run(tmp_path, text, "pytest", "-q", *options)


def test_unittest_shares_one_for_a_class(tmp_path: Path) -> None:
    assert "OK" in run(tmp_path, UNITTEST, "unittest", "-q", "test_application")


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path) -> None:
    text = """
import sys
sys.modules["PIL"] = None
from stable_async.sandbox import SandboxSettings, run_in_thread
try:
    with run_in_thread(SandboxSettings()):
        pass
except ImportError as error:
    print(error)
"""
    assert "extra [sandbox]: pip install" in run(tmp_path, text, "test_application")
