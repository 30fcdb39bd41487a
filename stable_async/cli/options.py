"""Kinds of options that several commands share."""

import re
from typing import Annotated

from cyclopts import Parameter

__all__ = ["Flag", "JsonFlag", "option_text"]

# Settings whose options have other names.
OPTIONS = {"allowed_hosts": "allow_host", "edge_rates": "edge"}

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag: given or not."""

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
"""Whether to print one JSON object."""


def option_text(error: object) -> str:
    """Return the text of an error about a setting, with the name of its option."""
    text = re.sub(
        r"^[a-z_]+(?=(\[.*\])? is )",
        lambda name: "--" + OPTIONS.get(name[0], name[0]).replace("_", "-"),
        str(error),
    )
    return text.removesuffix(", or None")
