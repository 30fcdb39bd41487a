"""A client of a few lines, which knows nothing of the package's own client, and test files."""

from __future__ import annotations

import functools
import io
import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from PIL import Image

from stable_async.sandbox.spec.facts import load_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

    from stable_async.sandbox.spec.facts import Field, Operation

BOUNDARY = "8c1f0a2bd34e"
KEY = "sk-sandbox"
File = tuple[str, bytes]
OPERATIONS = {operation.id: operation for operation in load_facts().operations}


def whatwg(text: str) -> str:
    """Write a name as browsers do: WHATWG HTML, multipart/form-data encoding algorithm."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def multipart(fields: Mapping[str, str | bytes], files: Mapping[str, File] | None = None) -> bytes:
    """Return a multipart body as browsers write it."""
    body = b""
    for name, value in fields.items():
        data = value.encode() if isinstance(value, str) else value
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{whatwg(name)}"\r\n'.encode()
        )
        body += b"\r\n" + data + b"\r\n"
    for name, (filename, data) in (files or {}).items():
        head = f'form-data; name="{whatwg(name)}"; filename="{whatwg(filename)}"'
        body += f"--{BOUNDARY}\r\nContent-Disposition: {head}\r\n".encode()
        body += b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.body))

    @property
    def errors(self) -> list[str]:
        return cast("list[str]", self.json["errors"])

    @property
    def size(self) -> tuple[int, int]:
        return Image.open(io.BytesIO(self.body)).size


@dataclass
class Caller:
    """Sends requests to a sandbox."""

    session: aiohttp.ClientSession
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request; a header of the value "" is left out."""
        wanted = {"authorization": f"Bearer {KEY}", **self.headers, **(headers or {})}
        kept = {name: value for name, value in wanted.items() if value}
        skip = ("accept", "content-type")
        data = io.BytesIO(body) if body else None
        async with self.session.request(
            method, self.url + path, data=data, headers=kept, skip_auto_headers=skip
        ) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def post(
        self,
        path: str,
        fields: Mapping[str, str | bytes] | None = None,
        files: Mapping[str, File] | None = None,
        **headers: str,
    ) -> Reply:
        """Send a form."""
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send(
            "POST", path, multipart(fields or {}, files), {"content-type": content_type, **named}
        )

    async def core(self, prompt: str = "a lighthouse", /, **fields: str) -> Reply:
        """Ask core for a JPEG; what is no field of it is taken for a header."""
        operation = OPERATIONS["generate_core"]
        known = {fact.name for fact in operation.fields}
        headers = {name: fields.pop(name) for name in [*fields] if name not in known}
        form = {"prompt": prompt, "output_format": "jpeg", **fields}
        return await self.post(operation.path, form, None, **headers)

    async def operate(
        self,
        operation: Operation,
        changes: Mapping[str, str | File | None] | None = None,
        **headers: str,
    ) -> Reply:
        """Send the smallest valid request of an operation, with some fields changed or left out."""
        values: dict[str, str | File | None] = {**smallest(operation), **(changes or {})}
        path = operation.path.replace("{engine_id}", ENGINES.get(operation.id, ""))
        path = path.replace("{id}", "0" * 64)
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        files = {name: value for name, value in values.items() if isinstance(value, tuple)}
        if operation.body == "json":
            plain = {fact.name for fact in operation.fields if fact.type in {"string", "enum"}}
            content = {
                name: text if name in plain else _as_json(text) for name, text in texts.items()
            }
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            body = json.dumps(content).encode()
            return await self.send(
                "POST", path, body, {"content-type": "application/json", **named}
            )
        if operation.body == "none":
            return await self.send("GET", path, None, headers)
        return await self.post(path, texts, files, **headers)


def _as_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


ENGINES = {
    "v1_text_to_image": "stable-diffusion-v1-5",
    "v1_image_to_image": "stable-diffusion-v1-5",
    "v1_image_to_image_masking": "stable-inpainting-512-v2-0",
    "v1_image_to_image_upscale": "esrgan-v1-x2plus",
}


@functools.cache
def sample_image(width: int = 96, height: int = 64, fmt: str = "PNG", mode: str = "RGB") -> bytes:
    """Return an image file with two areas in it."""
    image = Image.new(mode, (width, height), "white")
    image.paste("navy", (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    out = io.BytesIO()
    image.save(out, fmt)
    return out.getvalue()


@functools.cache
def sample_audio(seconds: float = 7.0) -> bytes:
    """Return a silent 8-bit mono WAV of 8 kHz."""
    data = b"\x80" * int(8000 * seconds)
    layout = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    body = b"WAVE" + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def file_for(fact: Field) -> File:
    """Return a file that the field takes."""
    if fact.max_seconds is not None:
        return "in.wav", sample_audio()
    return "in.png", sample_image()


# What the rules across fields ask for, beyond the fields that are required by themselves.
ALSO_NEEDED: dict[str, dict[str, str | File]] = {
    "edit_outpaint": {"left": "8"},
    "edit_replace_background_and_relight": {"background_prompt": "a beach"},
    "v1_image_to_image_masking": {"mask_image": ("mask.png", sample_image())},
}


# What the same rules ask for once an optional field is given.
NEEDED_WITH: dict[tuple[str, str], dict[str, str | File]] = {
    ("generate_sd3", "image"): {"mode": "image-to-image", "strength": "0.5"},
    ("generate_sd3", "strength"): {"mode": "image-to-image", "image": ("in.png", sample_image())},
    ("edit_replace_background_and_relight", "light_source_strength"): {
        "light_source_direction": "left"
    },
    ("v1_image_to_image", "step_schedule_start"): {"init_image_mode": "STEP_SCHEDULE"},
    ("v1_image_to_image", "step_schedule_end"): {"init_image_mode": "STEP_SCHEDULE"},
}


def smallest(operation: Operation) -> dict[str, str | File]:
    """Return the fewest and smallest values that make a valid request."""
    values: dict[str, str | File] = {}
    for fact in operation.fields:
        if not fact.required or fact.place != "body":
            continue
        if fact.type == "file":
            values[fact.name] = file_for(fact)
        elif fact.type == "enum":
            values[fact.name] = fact.values[0]
        elif fact.type == "array" and operation.body == "json":
            values[fact.name] = '[{"text": "a lighthouse"}]'
        elif fact.type == "array":
            values["text_prompts[0][text]"] = "a lighthouse"
        else:
            values[fact.name] = "a lighthouse"
    return {**values, **ALSO_NEEDED.get(operation.id, {})}
