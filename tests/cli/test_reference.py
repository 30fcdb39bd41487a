"""The document of the command line is what the commands say."""

from __future__ import annotations

from tests.cli.reference import DOCUMENT, reference


def test_the_document_is_up_to_date() -> None:
    """If this fails: `python -m tests.cli.reference`."""
    assert DOCUMENT.read_text() == reference()
