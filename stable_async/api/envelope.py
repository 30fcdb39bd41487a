"""The envelope in which the API reports errors: what carries it comes from the API. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from stable_async.api.pages import message_in
from stable_async.api.parsing import parse_json

__all__ = ["Envelope", "read_envelope"]


_SAID = ("errors", "message")


@dataclass(frozen=True, slots=True)
class Envelope:
    """An error as the API writes it; its text is not cleaned.

    Attributes:
        id: The API's id of the request.
        name: The API's name of the error, such as `bad_request`.
        messages: The API's messages.
    """

    id: str
    name: str
    messages: tuple[str, ...]


def read_envelope(body: bytes) -> Envelope | None:
    """Return the envelope in `body`; `None` if something other than the API has answered.

    v2beta: `id`, `name`, `errors` (a list of strings). v1: `id`, `name`, `message`. Source: OpenAPI
    document of api.stability.ai, read 2026-09-22. All three must be present; their types may
    differ.
    """
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
        return None
    try:
        content = parse_json(body)
    except ValueError:
        return None
    if not isinstance(content, dict) or "id" not in content or content.keys().isdisjoint(_SAID):
        return None
    identity, name = content["id"], content.get("name")
    messages = content.get("errors")
    if messages is None:
        messages = content.get("message")
    if not isinstance(identity, str | int | None) or not isinstance(name, str) or not name.strip():
        return None
    if not isinstance(messages, str | list | dict | None):
        return None
    return Envelope("" if identity is None else str(identity), name.strip(), _texts(messages))


def _texts(messages: str | list[object] | dict[str, object] | None) -> tuple[str, ...]:
    """Return messages as text: those of a list, of an object, or by the name of a field."""
    match messages:
        case None:
            return ()
        case str():
            return (messages,)
        case list():
            return tuple(message_in(one) or str(one) for one in messages)
        case _ if said := message_in(messages):
            return (said,)
        case _:
            return tuple(f"{field}: {message_in(one) or one}" for field, one in messages.items())
