"""How prompts are read: the options that `run` and `estimate` share."""

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.failures import UsageError
from stable_async.jobs import PromptFile, PromptFileError, PromptRules
from stable_async.jobs.prompt_file import Format

__all__ = ["PromptOptions", "PromptsArgument"]

PromptsArgument = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""The path of a prompt file, or `-`."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How prompts become requests.

    Attributes:
        service: Service of rows that name none: core, ultra, sd3, erase, upscale-fast and so on.
        set: KEY=VALUE for every row, whatever the row says; may be repeated.
        vary: KEY=A,B,C makes every row with each; several make all combinations.
        limit: Only the first so many pictures of the file.
        format: Format of PROMPTS where its name does not tell; standard input is jsonl.
        prompt_column: Name of the column or key that has the prompts.
    """

    service: str = "core"
    set: Annotated[list[str], Parameter(metavar="KEY=VALUE", negative="", show_default=False)] = (
        field(default_factory=list)
    )
    vary: Annotated[list[str], Parameter(metavar="KEY=A,B,C", negative="", show_default=False)] = (
        field(default_factory=list)
    )
    limit: int | None = None
    format: Format | None = None
    prompt_column: str | None = None

    def read(self, prompts: str) -> tuple[PromptFile, PromptRules]:
        """Give the prompt file and the rules that these options make.

        Raises:
            UsageError: There is no such file, or an option makes no sense.
        """
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit is {self.limit}; allowed: 1 or more")
        rules = PromptRules(
            service=self.service,
            set=dict(_pair("--set", text) for text in self.set),
            vary={
                key: tuple(value.split(","))
                for key, value in (_pair("--vary", text) for text in self.vary)
            },
            limit=self.limit,
        )
        for problem in rules.problems():
            raise UsageError(str(problem))
        try:
            return PromptFile(prompts, format=self.format, prompt_column=self.prompt_column), rules
        except PromptFileError as error:
            raise UsageError(str(error)) from None


def _pair(option: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise UsageError(f"{option} {text}: allowed: KEY=VALUE")
    return key.replace("-", "_"), value
