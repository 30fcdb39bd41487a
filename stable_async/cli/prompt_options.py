"""How prompts are read: the options that `run` and `estimate` share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import UsageError
from stable_async.cli.options import Flag, WholeNumber, option_text, reflowed
from stable_async.errors import ConfigurationError
from stable_async.jobs import PromptFile, PromptFileError, PromptRules
from stable_async.jobs.columns import ColumnRules, folded
from stable_async.jobs.prompt_file import Format
from stable_async.jobs.shard import WHOLE, Shard

__all__ = ["PromptOptions", "PromptsArgument"]

PromptsArgument = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""The path of a prompt file, or `-`."""

Columns = Annotated[list[str], Parameter(metavar="COLUMN", negative="", show_default=False)]
"""Names of columns: repeated, or separated by commas."""


@Parameter(name="*")
@reflowed
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How prompts become requests.

    Attributes:
        service: Service for rows that name none: core (the default), ultra, sd3, erase and so on.
        set: Set KEY to VALUE in every row, whatever the row says; repeatable.
        vary: Make every row once with each value of KEY; repeat it for all combinations.
        limit: Make only the first N images of the file.
        sample: Make only N images, spread over the file, to review before buying the rest.
        shard: Make only part I of N, I from 1; names and seeds are those of the whole file.
        allow_duplicates: Make the same request with the same seed as often as it occurs.
        price: Credits to count for a row whose price no source states, such as one of v1.
        format: Format of PROMPTS if its name does not show it; standard input is jsonl.
        encoding: Encoding of a text file without a byte order mark, if not UTF-8, such as cp1252.
        delimiter: Delimiter of CSV cells, if the header does not show it; "tab" is allowed.
        prompt_column: Column or key with the prompts; case does not matter.
        map: Use a column as a parameter; repeatable.
        keep: Columns to keep as metadata although they look like parameters; '*' is all.
        drop: Columns to ignore.
    """

    service: str | None = None
    set: Annotated[list[str], Parameter(metavar="KEY=VALUE", negative="", show_default=False)] = (
        field(default_factory=list)
    )
    vary: Annotated[list[str], Parameter(metavar="KEY=A,B,C", negative="", show_default=False)] = (
        field(default_factory=list)
    )
    limit: WholeNumber | None = None
    sample: WholeNumber | None = None
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None
    allow_duplicates: Flag = False
    price: Annotated[float | None, Parameter(metavar="CREDITS")] = None
    format: Format | None = None
    encoding: str | None = None
    delimiter: str | None = None
    prompt_column: Annotated[str | None, Parameter(metavar="COLUMN")] = None
    map: Annotated[
        list[str], Parameter(metavar="COLUMN=FIELD", negative="", show_default=False)
    ] = field(default_factory=list)
    keep: Columns = field(default_factory=list)
    drop: Columns = field(default_factory=list)

    def read(self, prompts: str) -> tuple[PromptFile, PromptRules]:
        """Return the prompt file and the rules that these options make.

        Raises:
            UsageError: There is no such file, or an option is invalid.
        """
        service = PromptRules().service if self.service is None else self.service
        try:
            rules = PromptRules(
                service=service,
                set=_once("--set", (_pair("--set", text) for text in self.set)),
                vary={
                    key: tuple(value.split(","))
                    for key, value in _once(
                        "--vary", (_pair("--vary", text) for text in self.vary)
                    ).items()
                },
                limit=self.limit,
                sample=self.sample,
                shard=self.parse_shard(),
                allow_duplicates=self.allow_duplicates,
                price=self.price,
            )
        except ConfigurationError as error:
            raise UsageError(option_text(error)) from None
        for problem in rules.problems():
            raise UsageError(option_text(problem))
        try:
            source = PromptFile(
                prompts,
                format=self.format,
                encoding=self.encoding,
                delimiter=self.delimiter,
                rules=ColumnRules(
                    service=service,
                    given=frozenset((*rules.set, *rules.vary)),
                    prompt_column=self.prompt_column,
                    map=_once("--map", map(_mapping, self.map)),
                    keep=_names(self.keep),
                    drop=_names(self.drop),
                ),
            )
        except PromptFileError as error:
            raise UsageError(str(error)) from None
        return source, rules

    def parse_shard(self) -> Shard:
        """Return the part of the job; the whole unless one is named.

        Raises:
            UsageError: There is no such part.
        """
        try:
            return WHOLE if self.shard is None else Shard.parse(self.shard)
        except ConfigurationError as error:
            raise UsageError(option_text(error)) from None


def _once(option: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the values by key; of a key that is given twice one would be dropped."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"{option} {key} is given twice: {found[key]!r} and {value!r}")
        found[key] = value
    return found


def _mapping(text: str) -> tuple[str, str]:
    column, separator, target = text.rpartition("=")
    if not column or not separator or not target:
        raise UsageError(f"--map is {text!r}; allowed: COLUMN=FIELD")
    return column, folded(target)


def _names(texts: list[str]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]


def _pair(option: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise UsageError(f"{option} is {text!r}; allowed: KEY=VALUE")
    return key.replace("-", "_"), value
