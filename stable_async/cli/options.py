"""What the options of several commands share: their kinds, their names in messages, their help."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from cyclopts import Parameter, Token, convert

__all__ = ["Flag", "JsonFlag", "WholeNumber", "option_text", "reflowed", "whole_number"]

DescribedT = TypeVar("DescribedT", bound=Callable[..., object])

# Settings whose options have other names.
OPTIONS = {"allowed_hosts": "allow_host", "edge_rates": "edge"}

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag: given or not."""

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
"""Whether to print one JSON object."""


def whole_number(kind: object, tokens: Sequence[Token]) -> object:
    """Convert the value of an option that is a whole number; cyclopts would round `1.5`.

    Raises:
        ValueError: It has a decimal point.
    """
    if any("." in token.value for token in tokens):
        raise ValueError(f"allowed: a whole number, not {tokens[0].value}")
    return convert(kind, tokens)


WholeNumber = Annotated[int, Parameter(converter=whole_number)]
"""A whole number, which is never rounded."""


def option_text(error: object) -> str:
    """Return the text of an error about a setting, with the name of its option."""
    text = re.sub(
        r"^[a-z_]+(?=(\[.*\])? is )",
        lambda name: "--" + OPTIONS.get(name[0], name[0]).replace("_", "-"),
        str(error),
    )
    return text.removesuffix(", or None")


def reflowed(described: DescribedT) -> DescribedT:
    """Join the lines of each paragraph and argument of a docstring: cyclopts shows them as they
    are, and a terminal has a width of its own.
    """
    lines = [""]
    for line in inspect.cleandoc(described.__doc__ or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if line and lines[-1] and indent != 4:  # 4: another argument
            lines[-1] += f" {line.lstrip()}"
        else:
            lines.append(line)
    described.__doc__ = "\n".join(lines[1:])
    return described
