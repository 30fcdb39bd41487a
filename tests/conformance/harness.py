"""Both sides of the wire: the client's models, and the sandbox as any HTTP client sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from stable_async.api import (
    account,
    audio,
    control,
    edit,
    generate,
    model3d,
    results,
    upscale,
    v1,
)
from stable_async.api.base import Request
from stable_async.errors import InvalidRequestError
from stable_async.transport.multipart import MultipartForm, body_of
from tests.conformance.facts import ABSENT, operations, smallest
from tests.operations_table import operations_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from stable_async.sandbox import Sandbox
    from tests.conformance.facts import Values

MODULES = [account, audio, control, edit, generate, model3d, results, upscale, v1]


MODEL_CLASSES: list[type[Request[Any]]] = [
    found
    for module in MODULES
    for found in (getattr(module, name) for name in module.__all__)
    if isinstance(found, type) and issubclass(found, Request)
]


MODELS = {operation.id: model for model in MODEL_CLASSES for operation in operations_of(model)}


def build(operation: str, values: Values) -> Request[Any]:
    """Return the client's request for values in the API's terms."""
    given = {name: value for name, value in values.items() if value is not ABSENT}
    if MODELS[operation].__module__ == audio.__name__ and operation.startswith("stable_audio_"):
        number = "2" if operation.startswith("stable_audio_2_") else "3"
        if number == "3":
            given.setdefault("model", "stable-audio-3")
    return MODELS[operation](**given)


@dataclass
class Harness:
    """Puts values to both sides, and counts how often."""

    sandbox: Sandbox
    session: aiohttp.ClientSession
    folder: Path
    count: int = 0
    failures: list[str] = field(default_factory=list)

    async def taken(
        self,
        operation: str,
        values: Values,
        what: str = "",
        *,
        client: bool = True,
        wire: bool = True,
    ) -> None:
        """Check that a request is valid."""
        values = smallest(operation) | values
        if client:
            problem = await self._client(operation, values)
            self._note(problem is None, f"{operation}: client refuses {what}: {problem}")
        if wire:
            status, text = await self._wire(operation, values)
            self._note(status in TAKEN, f"{operation}: sandbox refuses {what}: {status} {text}")

    async def refused(
        self,
        operation: str,
        values: Values,
        name: str = "",
        what: str = "",
        *,
        client: bool = True,
        wire: bool = True,
    ) -> None:
        """Check that a request is invalid, and that the message names the field."""
        values = smallest(operation) | values
        if client:
            problem = await self._client(operation, values)
            good = problem is not None and name in str(problem)
            self._note(good, f"{operation}: client takes {name}, {what}: {problem}")
        if wire:
            status, text = await self._wire(operation, values)
            good = status in REFUSED and (name in text or status == 404)
            self._note(good, f"{operation}: sandbox takes {name}, {what}: {status} {text}")

    async def mirror(self, operation: str, values: Values, what: str) -> None:
        """Check that a request is valid for the client and for a mirror, and nowhere else."""
        await self.taken(operation, values, what, wire=False)
        values = smallest(operation) | values
        for prefix, statuses in (("/sd", TAKEN), ("", REFUSED)):
            status, text = await self._wire(operation, values, prefix=prefix)
            self._note(status in statuses, f"{operation}: {prefix!r} {what}: {status} {text}")

    def true(self, condition: bool, what: str) -> None:
        """Check anything else."""
        self._note(condition, what)

    def _note(self, good: bool, failure: str) -> None:
        self.count += 1
        if not good:
            self.failures.append(failure)

    async def _client(self, operation: str, values: Values) -> InvalidRequestError | None:
        try:
            request = build(operation, values)
            if request.operation.method == "POST":
                body, _ = body_of(request)
                if isinstance(body, MultipartForm):
                    try:
                        await body.open()
                    finally:
                        await body.close()
        except InvalidRequestError as error:
            return error
        if request.operation.id != operation:
            self.failures.append(f"{operation}: client sends it to {request.operation.id}")
        return None

    async def _wire(self, operation: str, values: Values, *, prefix: str = "") -> tuple[int, str]:
        async with self.send(operation, values, prefix=prefix, work=False) as response:
            return response.status, await response.text()

    def send(
        self,
        operation: str,
        values: Values,
        *,
        prefix: str = "",
        work: bool = True,
        key: str = "sk-tester",
        accept: str | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send values as the documentation says, without a line of the client.

        Unless it is to `work`, the request is one that comes to nothing once it was found valid:
        v2 looks at the key after the fields, and v1 has a word in a file's name for it.
        """
        fact = operations()[operation]
        given = {name: value for name, value in values.items() if value is not ABSENT}
        paths = {f["name"]: str(given.pop(f["name"], "")) for f in fact["fields"] if "in" in f}
        v1_api = fact["path"].startswith("/v1/")
        headers = {"authorization": f"Bearer {key}"} if work or v1_api else {}
        if fact["accept"]:
            headers["accept"] = accept or fact["accept"][0]
        url = self.sandbox.url + prefix + fact["path"].format(**paths)
        if fact["body"] == "none":
            return self.session.get(url, headers=headers)
        if fact["body"] == "json":
            if not work:
                given["text_prompts"] = _failing(given.get("text_prompts"))
            return self.session.post(url, headers=headers, json=given)
        form = aiohttp.MultipartWriter("form-data")
        for name, value in given.items():
            if isinstance(value, bytes):
                part = form.append(value, {"Content-Type": "application/octet-stream"})
                filename = "file" if work else "sandbox-error"
                part.set_content_disposition("form-data", name=name, filename=filename)
                continue
            for full_name, text in _texts(name, value):
                part = form.append(text)
                part.set_content_disposition("form-data", name=full_name)
        if not given:
            form.append("").set_content_disposition("form-data", name="none")
        return self.session.post(url, headers=headers, data=form)


# Valid, and then stopped: no key (v2), an error that was asked for (v1), or nothing to stop.
TAKEN = {401, 500, 200}
REFUSED = {400, 404}


def _failing(prompts: object) -> object:
    """Let the first of valid prompts make the sandbox fail, which costs no drawing."""
    if not isinstance(prompts, list) or not prompts:
        return prompts
    return [*prompts, {"text": "sandbox:error"}]


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case [*items] if name == "text_prompts":
            for index, item in enumerate(items):
                for key, part in cast("dict[str, object]", item).items():
                    yield f"{name}[{index}][{key}]", str(part)
        case list() | dict():
            yield name, json.dumps(value)
        case _:
            yield name, str(value)
