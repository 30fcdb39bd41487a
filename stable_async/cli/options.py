"""Kinds of options that several commands share."""

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Flag", "JsonFlag"]

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag: given or not."""

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
"""Whether to print one JSON object."""
