"""Kinds of options that several commands share."""

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Flag"]

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag: given or not."""
