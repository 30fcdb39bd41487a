"""`stable-async generate SERVICE`: one image, audio or model."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from cyclopts import App, Parameter
from pydantic.fields import FieldInfo

from stable_async.api.base import MediaRequest
from stable_async.api.prompt_texts import prompt_problem
from stable_async.api.services import SERVICES, Service
from stable_async.cli.connection import Connection, open_client
from stable_async.cli.exit_status import UsageError
from stable_async.cli.options import whole_number
from stable_async.cli.output_file import OutputFile, OutputOption
from stable_async.errors import InvalidRequestError
from stable_async.media import Media

__all__ = ["app"]

DEFAULT = Connection()

JsonOption = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, help="Print the details of the result as one JSON object."
    ),
]

app: App = App(name="generate", help="Make one image, audio or model.", help_format="plaintext")


def _command(service: Service) -> Callable[..., int]:
    """Return the command of a service: an option for each field of its request."""
    model = service.model

    def command(
        *prompt: str,
        output: Path,
        json: bool = False,
        connection: Connection = DEFAULT,
        **fields: object,
    ) -> int:
        if prompt:
            fields["prompt"] = prompt[0]
        return asyncio.run(_generate(model, OutputFile(output, json), connection, fields))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [_option(service, name, field) for name, field in model.model_fields.items()]
    parameters += [
        inspect.Parameter("output", keyword, annotation=OutputOption),
        inspect.Parameter("json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("connection", keyword, default=DEFAULT, annotation=Connection),
    ]
    parameters.sort(key=lambda parameter: (parameter.kind, parameter.name != "prompt"))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by cyclopts
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__doc__ = (model.__doc__ or "").partition("\n\n")[0]
    return command


def _option(service: Service, name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the option for a field of a request; a prompt may also be given without its name."""
    is_prompt, required = name == "prompt", field.is_required()
    kind = _plain(field.annotation)
    if name in service.model.file_parts:
        kind = Path if required else Path | None
    converter = whole_number if int in get_args(kind) else None
    details = Parameter(negative="", help=_help(service, name), converter=converter)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if is_prompt else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind, details],
    )


def _plain(annotation: object) -> object:
    """Return a type without its limits: the request checks them and has better messages.

    A list or an object is written as JSON.
    """
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return Union[tuple(map(_plain, get_args(annotation)))]  # noqa: UP007 - built from a list
    return str if get_origin(annotation) in {dict, Sequence} else annotation


def _help(service: Service, name: str) -> str:
    """Return what docstrings of a request say about a field."""
    kinds: list[type] = [*service.model.__mro__]
    if service.several is not None:
        kinds.append(service.several)
    texts = (_described(kind, name) for kind in kinds)
    return next(filter(None, texts), "")


def _described(kind: type, name: str) -> str:
    found: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        if line.startswith(f"    {name}: "):
            found.append(line.partition(": ")[2])
        elif found and line.startswith("      "):
            found.append(line.strip())
        elif found:
            break
    return " ".join(found).replace("`", "")


async def _generate(
    model: type[MediaRequest[Media]],
    output: OutputFile,
    connection: Connection,
    fields: dict[str, object],
) -> int:
    given = {name: value for name, value in fields.items() if value is not None}
    asked = output.output_format(model.media) if "output_format" not in given else ""
    if "output_format" in model.model_fields and asked:
        given["output_format"] = asked
    try:
        request = model(**given)
    except InvalidRequestError as error:
        raise UsageError("; ".join(map(str, error.problems))) from None
    if problem := prompt_problem(model, given):
        raise UsageError(str(problem))
    await output.check()
    async with open_client(connection) as client:
        return await output.keep(await client.send(request))


for _service in SERVICES.values():
    app.command(_command(_service), name=_service.name)
