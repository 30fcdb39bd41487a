"""The first bytes of a file to be sent, which show its format. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileHead"]


@dataclass(frozen=True, slots=True)
class FileHead:
    """The first bytes of a file.

    Attributes:
        data: The bytes.
        complete: Whether they are the whole file.
        size: Length of the whole file, bytes; `None` when it is not known yet.
    """

    data: bytes
    complete: bool
    size: int | None
