"""Request and store the image of one row, for jobs and makers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from stable_async.errors import InvalidResponseError
from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import ImageFacts, Result
from stable_async.jobs.rules import make_request
from stable_async.jobs.storage.base import SpooledError
from stable_async.media import Media
from stable_async.transport.options import AttemptObserver

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.api.base import MediaRequest
    from stable_async.client import StabilityClient
    from stable_async.files import Sink
    from stable_async.jobs.row import Row
    from stable_async.jobs.storage.base import ImageWriter
    from stable_async.transport.streams import MediaStream

__all__ = ["RowObserver", "make_image"]


class RowObserver(AttemptObserver, Protocol):
    """Notified of the steps to the image of a row.

    Attributes:
        sent_at: When the last request left, seconds since 1970; `None` before the first.
    """

    sent_at: float | None

    async def accepted(self, generation_id: str) -> None:
        """Called when an asynchronous operation was accepted, and so is paid for."""


async def make_image(
    client: StabilityClient, images: ImageWriter, folder: Path, row: Row, observer: RowObserver
) -> Result:
    """Request the image of a row, store it, and return the result.

    If an asynchronous operation was accepted before, its generation is fetched and not requested
    again.

    Raises:
        StorageError: The image has arrived, and could not be stored where it belongs.
        StabilityError: There is no image, as for `StabilityClient.stream`.
    """
    fields = row.fields if row.seed is None else {**row.fields, "seed": row.seed}
    request: MediaRequest[Media] = make_request(row.service, fields, folder)
    if (fetching := request.operation.result) is not None:
        if row.generation_id is None:
            try:
                row.generation_id = (await client.submit(request, observer=observer)).id
            except InvalidResponseError as error:
                if not isinstance(error.result, Media):
                    raise
                return await _store(images, row, observer, error.result)
            await observer.accepted(row.generation_id)
        fetch = fetching(id=row.generation_id, paid=row.price)
        request = cast("MediaRequest[Media]", fetch)
    async with client.stream(request, observer=observer) as stream:
        if stream.known_at_end:
            await stream.hold()
        return await _store(images, row, observer, stream)


async def _store(
    images: ImageWriter, row: Row, observer: RowObserver, result: Media | MediaStream[Media]
) -> Result:
    """Store a result that has arrived, or is arriving."""
    image = ImageFacts(
        row.position,
        content_type=result.content_type,
        seed=row.seed if result.seed is None else result.seed,
        finish_reason=result.finish_reason,
        request_id=result.request_id,
        credits=row.price,
        sent_at=observer.sent_at,
    )
    try:
        sink = images.sink(row, image)
        if isinstance(result, Media):
            await _commit(result.data, sink)
        else:
            await result.save_to(sink)
    except OSError as error:
        why = f"an image cannot be stored: {error.strerror or error}"
        raise StorageError(why, spooled=isinstance(error, SpooledError)) from error
    return Result("filtered" if image.filtered else "done", "spent", image)


async def _commit(data: bytes, sink: Sink[None]) -> None:
    try:
        await sink.commit([data])
    except BaseException:
        await sink.discard()
        raise
