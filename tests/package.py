"""`python -m tests.package DIST`: what `make package` built is whole, and works without a checkout.

The wheel is installed alone, with its dependencies and no extra, into an environment of its own,
and used from an empty folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]

# What a user who installs the wheel must be able to do without any extra.
PROGRAM = """
import asyncio, pathlib, sys
import stable_async
from stable_async import APIConnectionError, GenerateCore, StabilityClient

assert pathlib.Path(stable_async.__file__).is_relative_to(sys.prefix), stable_async.__file__

async def main():
    async with StabilityClient("sk-wheel", base_url="http://127.0.0.1:9") as client:
        try:
            await client.send(GenerateCore(prompt="a lighthouse"))
        except APIConnectionError as error:
            assert not error.maybe_billed
        else:
            raise SystemExit("nobody listens there")

asyncio.run(main())
print(stable_async.__version__)
"""


def files_of_package() -> set[str]:
    """Return the files of the package that are kept in the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "stable_async"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def check_contents(wheel: Path, sdist: Path) -> None:
    """Compare both archives with the repository."""
    expected = files_of_package()
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert inside == expected, inside ^ expected
    assert "License-Expression: Apache-2.0" in text
    assert "stable_async contributors" in text
    # Relative links lead nowhere on a package index.
    assert "# stable_async" in text
    assert not re.findall(r"\]\((?!https?:)[^)]*\)|<!--", text)
    with tarfile.open(sdist) as tar:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in tar.getnames()}
    missing = (expected | {"LICENSE", "README.md", "pyproject.toml"}) - names
    assert not missing, missing


def check_use(wheel: Path) -> None:
    """Install the wheel alone, and use it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel],
            check=True,
        )
        # The quota's file goes to this folder, and not to the user's cache.
        own = os.environ | {"XDG_CACHE_HOME": folder}
        subprocess.run([python, "-c", PROGRAM], check=True, cwd=folder, env=own)
        help_text = subprocess.run(
            [environment / "bin" / "stable-async", "--help"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert help_text.returncode == 1
        assert ".[cli]" in help_text.stderr, help_text.stderr


def main(dist: Path) -> None:
    """Check the one wheel and the one sdist in `dist`."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    check_contents(wheel, sdist)
    check_use(wheel.resolve())
    print(f"{wheel.name} and {sdist.name} are whole, and the wheel works alone")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
