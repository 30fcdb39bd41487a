"""Kinds of options that many commands have."""

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Flag"]

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""An option that is given or not."""
