"""The file of one result: checked before anything is paid, and never lost afterwards."""

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import CANNOT_WORK, OK, SOME_FAILED, UsageError
from stable_async.files import in_thread, prove_writable, write_atomically
from stable_async.media import MEDIA_TYPES, SUFFIXES, Audio, Image, Media, Model3D

__all__ = ["FORMATS", "OutputFile", "OutputOption", "kind_of"]

OutputOption = Annotated[
    Path, Parameter(name=["--output", "-o"], help="File to write; an existing one is replaced.")
]

# The meaning of a file's suffix: the kind of result, and the `output_format` to ask for.
FORMATS: dict[type[Media], dict[str, str]] = {
    Image: {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"},
    Audio: {".mp3": "mp3", ".wav": "wav"},
    Model3D: {".glb": ""},
}


def kind_of(output: Path) -> type[Media]:
    """Return the kind of result that a file name asks for; an image for an unknown suffix."""
    suffix = output.suffix.lower()
    return next((kind for kind, formats in FORMATS.items() if suffix in formats), Image)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """Where one result goes.

    Attributes:
        path: The file.
        as_json: Print the facts as JSON instead of a line.
    """

    path: Path
    as_json: bool

    async def check(self) -> None:
        """Create the file's folder and check that the file can be written, before anything is sent.

        Raises:
            OSError: The file cannot be written.
        """

        def check() -> None:
            with suppress(FileExistsError, NotADirectoryError):  # the next line reports it better
                self.path.parent.mkdir(parents=True, exist_ok=True)
            prove_writable(self.path)

        await in_thread(check)

    def output_format(self, kind: type[Media]) -> str:
        """Return the format that the suffix of the file asks for.

        Raises:
            UsageError: The suffix is not one of this kind.
        """
        formats = FORMATS[kind]
        if (suffix := self.path.suffix.lower()) not in formats:
            allowed = ", ".join(formats)
            raise UsageError(f"--output is {self.path}; allowed: a name that ends in {allowed}")
        return formats[suffix]

    async def keep(self, result: Media) -> int:
        """Write the result, print its facts, and return the exit status.

        If the file can no longer be written, the result is spooled to the folder for temporary
        files, because it was paid for.
        """
        path, status, problem = self.path, SOME_FAILED if result.filtered else OK, ""
        try:
            await in_thread(write_atomically, path, (result.data,))
        except OSError as error:
            problem = f"{path}: {error.strerror or error}; the result was saved elsewhere"
            path, status = await in_thread(_spool, result), CANNOT_WORK
        if self.as_json:
            facts = {
                "file": str(path),
                "content_type": result.content_type,
                "bytes": len(result.data),
                "seed": result.seed,
                "finish_reason": result.finish_reason,
                "request_id": result.request_id,
                "credits": result.credits,
                "problem": problem or None,
            }
            print(json.dumps(facts))
            return status
        seed = "" if result.seed is None else f", seed {result.seed}"
        price = "" if result.credits is None else f", {result.credits:g} credits"
        if problem:
            print(problem)
        print(f"{path}: {result.content_type}{seed}{price}")
        named = MEDIA_TYPES.get(path.suffix.lower(), result.content_type)
        if named != result.content_type:
            print(f"the file is {result.content_type}, although its name says otherwise")
        if result.filtered:
            print("the result was blurred by the content filter, and billed")
        return status


def _spool(result: Media) -> Path:
    suffix = SUFFIXES.get(result.content_type, "")
    with tempfile.NamedTemporaryFile(prefix="stable-async-", suffix=suffix, delete=False) as file:
        file.write(result.data)
    return Path(file.name)
