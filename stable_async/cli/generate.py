"""`stable-async generate SERVICE`: one picture."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from cyclopts import App, Parameter

from stable_async.api.base import MediaRequest
from stable_async.api.services import IMAGE_SERVICES
from stable_async.cli.connection import Connection, open_client
from stable_async.cli.failures import OK, SOME_FAILED, UsageError
from stable_async.errors import InvalidRequestError
from stable_async.media import Media

__all__ = ["app"]

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

DEFAULT = Connection()

app = App(name="generate", help="Make one image.", help_format="plaintext")


def _command(model: type[MediaRequest[Media]]) -> Callable[..., int]:
    """Make the command of a service: an option for each field of its request."""

    def command(
        *prompt: str, output: Path, connection: Connection = DEFAULT, **fields: object
    ) -> int:
        if prompt:
            fields["prompt"] = prompt[0]
        return asyncio.run(_generate(model, output, connection, fields))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "prompt" else keyword,
            default=inspect.Parameter.empty if field.is_required() else None,
            annotation=Annotated[
                (Path if field.is_required() else Path | None)
                if name in model.file_parts
                else _plain(field.annotation),
                Parameter(negative="", help=_help(model, name)),
            ],
        )
        for name, field in model.model_fields.items()
    ]
    parameters.append(
        inspect.Parameter(
            "output",
            keyword,
            annotation=Annotated[
                Path, Parameter(name=["--output", "-o"], help="File to write; replaced if there.")
            ],
        )
    )
    parameters.append(
        inspect.Parameter("connection", keyword, default=DEFAULT, annotation=Connection)
    )
    parameters.sort(key=lambda parameter: (parameter.kind, parameter.name != "prompt"))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # it counts
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__doc__ = (model.__doc__ or "").partition("\n\n")[0]
    return command


def _plain(annotation: object) -> object:
    """Take the limits out of a type: the request knows them, and tells them better."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return Union[tuple(map(_plain, get_args(annotation)))]  # noqa: UP007 - made of a list
    return annotation


def _help(model: type[MediaRequest[Media]], name: str) -> str:
    """Give what the docstring of a request says about a field."""
    lines = inspect.cleandoc(model.__doc__ or "").splitlines()
    found: list[str] = []
    for line in lines:
        if line.startswith(f"    {name}: "):
            found.append(line.partition(": ")[2])
        elif found and line.startswith("      "):
            found.append(line.strip())
        elif found:
            break
    return " ".join(found).replace("`", "")


async def _generate(
    model: type[MediaRequest[Media]],
    output: Path,
    connection: Connection,
    fields: dict[str, object],
) -> int:
    given = {name: value for name, value in fields.items() if value is not None}
    if "output_format" in model.model_fields and "output_format" not in given:
        suffix = output.suffix.lower()
        if suffix not in FORMATS:
            raise UsageError(f"-o {output}: allowed: a name that ends in {', '.join(FORMATS)}")
        given["output_format"] = FORMATS[suffix]
    try:
        request = model(**given)
    except InvalidRequestError as error:
        raise UsageError(str(error)) from None
    async with open_client(connection) as client, client.stream(request) as stream:
        await stream.save(output)
        seed = "" if stream.seed is None else f", seed {stream.seed}"
        price = "" if stream.credits is None else f", {stream.credits:g} credits"
        print(f"{output}: {stream.content_type}{seed}{price}")
        if stream.filtered:
            print("the picture was blurred by the content filter; it is billed all the same")
        return SOME_FAILED if stream.filtered else OK


for _service in IMAGE_SERVICES.values():
    app.command(_command(_service.model), name=_service.name)
