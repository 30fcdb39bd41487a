"""`stable-async results get`: fetch the result of a paid generation."""

import asyncio
from typing import Annotated

from cyclopts import App, Parameter

from stable_async.api.results import AudioResult, ImageResult
from stable_async.arguments import checked_setting, seconds
from stable_async.cli.connection import Connection, open_client
from stable_async.cli.exit_status import UsageError
from stable_async.cli.options import JsonFlag, option_text, reflowed
from stable_async.cli.output_file import OutputFile, OutputOption, kind_of
from stable_async.errors import APIStatusError, ConfigurationError, InvalidRequestError
from stable_async.media import Audio
from stable_async.transport.polling import RESULT_TIMEOUT

__all__ = ["app"]

OUTPUT_HELP = "File to write; an existing one is replaced. With .mp3 or .wav, the result is audio."

app: App = App(
    name="results", help="Fetch the result of a paid generation.", help_format="plaintext"
)


@app.command
@reflowed
def get(
    identity: Annotated[str, Parameter(name="ID", allow_leading_hyphen=True)],
    /,
    *,
    output: Annotated[OutputOption, Parameter(help=OUTPUT_HELP)],
    wait: Annotated[float, Parameter(metavar="SECONDS")] = RESULT_TIMEOUT,
    json: JsonFlag = False,
    connection: Connection = Connection(),  # noqa: B008 - frozen
) -> int:
    """Fetch the result of an asynchronous generation: free, for 24 hours, with the same key.

    Args:
        identity: The id of the generation, from a message or a ledger.
        output: See `OUTPUT_HELP`.
        wait: Seconds to wait while the generation is running.
        json: Print the details of the result as one JSON object.
        connection: Where requests go.
    """
    return asyncio.run(_get(identity, OutputFile(output, json), wait, connection))


async def _get(identity: str, output: OutputFile, wait: float, connection: Connection) -> int:
    model = AudioResult if kind_of(output.path) is Audio else ImageResult
    try:
        checked_setting("wait", wait, seconds)
        request = model(id=identity)
    except (ConfigurationError, InvalidRequestError) as error:
        raise UsageError(option_text(error)) from None
    await output.check()
    async with open_client(connection, result_timeout=wait) as client:
        try:
            result = await client.send(request)
        except APIStatusError as error:
            # The user has named it: whether there is one, and it was paid for, is not known.
            error.generation_id = None
            raise
        return await output.keep(result)
