"""What the columns of a prompt file mean: parameters, metadata, or a mistake. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from shlex import quote
from typing import TYPE_CHECKING, Literal

from stable_async.api.services import SERVICES, fields_of_all, service_name
from stable_async.jobs.errors import UnreadableError
from stable_async.jobs.row import FACTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from stable_async.api.services import Service

__all__ = [
    "EVERYTHING",
    "NUMBERS",
    "PROMPTS",
    "ROW_KEYS",
    "WHOLE_NUMBERS",
    "ColumnError",
    "ColumnReport",
    "ColumnRules",
    "Suspicion",
    "Target",
    "TargetKind",
    "classify",
    "folded",
    "is_parameter",
    "is_text",
    "own_name",
    "without_remarks",
]

ALL_FIELDS = fields_of_all()


def _fields_of(kinds: str) -> frozenset[str]:
    """Return the fields of all services whose values are of these kinds."""
    return frozenset(
        name
        for service in SERVICES.values()
        for name, info in service.model.model_fields.items()
        if re.search(rf"\b(?:{kinds})\b", str(info.annotation))
    )


NUMBERS = _fields_of("int|float")
WHOLE_NUMBERS = _fields_of("int")
# Keys of a row that are not fields of the API.
ROW_KEYS = frozenset({"id", "service"})
# An object of a row's own metadata.
METADATA = "metadata"
# `--keep '*'`: every column that is not a parameter.
EVERYTHING = "*"

IMAGES = ("image", "init_image", "subject_image")
# Parameters that may be meant by names that other programs and data sets use; the first one that
# the service has counts. Names are folded, without underscores.
MEANT: Mapping[str, tuple[str, ...]] = {
    name: meant
    for names, meant in (
        ("neg negative negatives negativetext negprompt nprompt uc", ("negative_prompt",)),
        ("ar aspect ratio size imagesize resolution dimensions wh wxh", ("aspect_ratio",)),
        ("width w", ("width", "aspect_ratio")),
        ("height h", ("height", "aspect_ratio")),
        ("style preset", ("style_preset",)),
        ("format fileformat imageformat", ("output_format",)),
        ("cfg guidance guidancescale", ("cfg_scale",)),
        ("randomseed noiseseed rngseed imageseed seedno seednumber seedvalue", ("seed",)),
        ("step numsteps inferencesteps numinferencesteps", ("steps",)),
        ("scheduler samplername", ("sampler",)),
        ("denoise denoisingstrength", ("strength",)),
        ("imagestrength", ("strength", "image_strength")),
        ("img imagepath imagefile photo picture inputimage sourceimage", IMAGES),
        ("filename filepath", (*IMAGES, "audio")),
        ("audiopath audiofile", ("audio",)),
        ("length seconds", ("duration",)),
        ("maskimage maskpath", ("mask", "mask_image")),
        ("modelname checkpoint", ("model", "engine_id")),
        ("engine modelid", ("engine_id", "model")),
        ("model", ("engine_id",)),
        ("n numimages numsamples batchsize", ("samples",)),
    )
    for name in names.split()
}
# Those of them whose values are not aspect ratios.
SIZES = frozenset({"width", "height", "w", "h", "size", "image_size", "resolution", "dimensions"})
# How similar, 0 to 1, a long name must be to a parameter to count as a misspelling of it. For short
# ones only typing errors count: `speed` and `need` are as similar to `seed` as any misspelling.
ALIKE = 0.88
LONG = 8
SHORTEST = 4
VOWELS = frozenset("aeiouy")
# Words that could be misspellings of another name, and are likelier names of columns.
ORDINARY = frozenset(
    {
        *("ask", "audi", "dawn", "don", "let", "lift", "loft", "made", "mage", "mod", "modal"),
        *("masked", "musk", "ode", "own", "reset", "rights", "schedule", "second", "see", "stale"),
        *("stole", "stop", "sued", "with"),
    }
)
# Columns in which data sets have text that may serve as prompts, the likeliest first.
PROMPTS = (
    *("prompt", "caption", "text", "prompts", "prompt_text", "text_prompt", "description"),
    *("positive_prompt", "positive", "title"),
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A column that looks like a parameter under another name.

    Attributes:
        column: Its name in the file.
        meant: The parameter; `None` if the service has none like it.
    """

    column: str
    meant: str | None


@dataclass(slots=True)
class ColumnReport:
    """How the columns of a file are used, by their names in the file.

    Attributes:
        parameters: Field of the API by column.
        kept: Columns that only go to `metadata.jsonl`.
        dropped: Columns that the options leave out.
        left_out: Columns with bytes, which metadata cannot hold.
        suspicious: Columns that stop the job until an option names them.
    """

    parameters: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    suspicious: list[Suspicion] = field(default_factory=list)

    def add(self, column: str, target: Target) -> None:
        """Add a column and its target."""
        match target.kind:
            case "field":
                self.parameters[column] = target.name
            case "kept":
                self.kept.append(column)
            case "dropped":
                self.dropped.append(column)
            case "left out":
                self.left_out.append(column)
            case "suspicious":
                self.suspicious.append(Suspicion(column, target.meant))

    def take(self, other: ColumnReport) -> None:
        """Copy another report into this one."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))


TargetKind = Literal["field", "kept", "dropped", "left out", "suspicious"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the values of a column go.

    Attributes:
        kind: `field`: a field of the API, `id` or `service`. `kept`: metadata. `dropped`: an
            option says so. `left out`: bytes. `suspicious`: unused until an option says so.
        name: Name of the field, or in the metadata.
        meant: The parameter that a suspicious column looks like.
    """

    kind: TargetKind
    name: str
    meant: str | None = None
    is_text: bool = field(init=False)
    """Whether a value may be any text."""

    def __post_init__(self) -> None:
        """Recognise text fields by their names."""
        object.__setattr__(self, "is_text", is_text(self.name))


class ColumnError(UnreadableError):
    """The columns of a file do not match the rules."""

    def __init__(self, what: str) -> None:
        super().__init__(0, what)


@dataclass(frozen=True, kw_only=True)
class ColumnRules:
    """Rules for columns, from options. Names are matched without regard to case.

    Attributes:
        service: The service of rows that name none.
        given: Fields that options set for every row.
        prompt_column: The column with the prompts; `None` means `prompt`.
        map: Field of the API by column.
        keep: Columns that are metadata, whatever they look like; `*` means all but parameters.
        drop: Columns that are left out.
        metadata_only: Whether columns are metadata unless an option makes them parameters.
    """

    service: str = "core"
    given: frozenset[str] = frozenset()
    prompt_column: str | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    drop: Sequence[str] = ()
    metadata_only: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with the rules themselves."""
        problems = [
            f"map {column}={target}: there is no parameter {target!r}; allowed: "
            + ", ".join(sorted(self.fields | ROW_KEYS))
            for column, target in self.map.items()
            if not is_parameter(target)
        ]
        named = [folded(name) for name in (*self.mapped, *self.keep, *self.drop)]
        problems += [
            f"column {name!r} is named twice by map, keep, drop and prompt column"
            for name in sorted({name for name in named if named.count(name) > 1})
        ]
        return problems

    @cached_property
    def mapped(self) -> dict[str, str]:
        """The columns that go to a field other than that of their name."""
        mapped = dict(self.map)
        if self.prompt_column is not None:
            mapped[self.prompt_column] = "prompt"
        return mapped

    @cached_property
    def fields(self) -> frozenset[str]:
        """The fields of the service."""
        service = self._service
        return frozenset(service.model.model_fields) if service else ALL_FIELDS

    @cached_property
    def required(self) -> frozenset[str]:
        """Fields that every row needs and no option sets."""
        if self._service is None:
            return frozenset()
        model = self._service.model
        needed = [name for name, info in model.model_fields.items() if info.is_required()]
        if self.given.isdisjoint(model.one_of):
            needed += model.one_of[:1]
        return frozenset(needed) - self.given

    @cached_property
    def file_fields(self) -> frozenset[str]:
        """Fields of the service that are files."""
        return frozenset(self._service.model.file_parts) if self._service else frozenset()

    @property
    def _service(self) -> Service | None:
        return SERVICES.get(service_name(self.service))

    @cached_property
    def line_field(self) -> str:
        """The field that a line of a `.txt` file holds.

        Raises:
            ColumnError: A row needs more than one.
        """
        if len(self.required) > 1:
            wanted = " and ".join(sorted(self.required))
            raise ColumnError(
                f"a .txt file has one value on each line, and {self.service} needs {wanted}: set "
                "the others with --set, or use a .csv with these columns"
            )
        return next(iter(self.required), "prompt")

    @cached_property
    def _named(self) -> dict[str, tuple[TargetKind, str]]:
        """Kind and field of the columns that options name, by folded name."""
        named = dict[str, tuple[TargetKind, str]]()
        named |= dict.fromkeys((*self._taken, *map(folded, self.keep)), ("kept", ""))
        named |= dict.fromkeys(map(folded, self.drop), ("dropped", ""))
        return named | {folded(name): ("field", field) for name, field in self.mapped.items()}

    def target(self, column: str, others: frozenset[str], *, any_service: bool) -> Target:
        """Return the target of a column of a table.

        Args:
            column: Its name in the file.
            others: Folded names of all columns.
            any_service: Whether rows name their services.
        """
        name = folded(column)
        if (target := self._target_by_option(column)) is not None:
            return target
        known = (ALL_FIELDS if any_service else self.fields) | ROW_KEYS
        if name in known and not self.metadata_only:
            return Target("field", name)
        own = own_name(column.strip())
        if EVERYTHING in self.keep or self.metadata_only:
            return Target("kept", own)
        there = others | self._taken | self.given
        bare = without_remarks(name)
        meant = next(_meant_by(bare.replace("_", ""), known), None)
        if meant is None and len(name) >= LONG:
            meant = next(iter(get_close_matches(name, known, n=1, cutoff=ALIKE)), None)
        if meant is not None:
            return Target("kept" if meant in there else "suspicious", own, meant)
        # Data sets often have the sizes of their images.
        of_another = bare in ALL_FIELDS and bare not in SIZES
        return Target("suspicious" if of_another else "kept", own)

    def target_of_key(self, key: str) -> Target:
        """Return the target of a key of JSON Lines; unknown ones stay, and are refused later."""
        target = self._target_by_option(key)
        known = is_parameter(key) and (key in self.fields or key not in SIZES)
        if target is None and EVERYTHING in self.keep and not known:
            return Target("kept", own_name(key))
        return target or Target("field", key)

    def _target_by_option(self, column: str) -> Target | None:
        """Return the target of a column that an option names."""
        match self._named.get(folded(column)):
            case None:
                return None
            case "field", name:
                return Target("field", name)
            case "dropped", _:
                return Target("dropped", column.strip())
            case _:
                return Target("kept", own_name(column.strip()))

    def check_inside(
        self, column: str, target: Target, keys: Iterable[str], there: Collection[str]
    ) -> None:
        """Refuse an object with parameters inside that would be metadata, and no option says so.

        Args:
            column: Its name.
            target: Its target.
            keys: The keys of the object.
            there: Fields that have columns of their own.

        Raises:
            ColumnError: It has some.
        """
        if (
            target.kind != "kept"
            or target.name == METADATA
            or self.metadata_only
            or EVERYTHING in self.keep
            or self._target_by_option(column) is not None
        ):
            return
        fields = self.fields - self.given - set(there)
        if inside := [key for key in keys if folded(key) in fields]:
            name = _quoted(column)
            raise ColumnError(
                f"{column} has {', '.join(inside)} inside, which no request would have: move them "
                f"out of it, or --keep {name} (as metadata), --drop {name}"
            )

    @cached_property
    def _taken(self) -> frozenset[str]:
        """Fields that other columns are mapped to."""
        return frozenset(self.mapped.values())

    def knows(self, column: str) -> bool:
        """Return whether a column is known by its name, or an option names it."""
        return (
            self._target_by_option(column) is not None or folded(column) in self.fields | ROW_KEYS
        )

    def check_required(
        self, found: Collection[str], columns: Sequence[str], *, what: str = "column"
    ) -> None:
        """Raise if a field that every row needs has no column.

        Raises:
            ColumnError: One is missing; the message lists those present.
        """
        missing = sorted(self.required.difference(found))
        one_of = self._service.model.one_of if self._service is not None else ()
        if not set(one_of).isdisjoint(found):
            missing = [name for name in missing if name not in one_of]
        if not missing:
            return
        named = [name.strip() for name in columns if folded(name)]
        shown = f"the {what}s are: {', '.join(named) or 'none'}"
        if "prompt" in missing:
            if len(named) == 1 and sum(map(self.knows, re.split(r"\W+", named[0]))) > 1:
                raise ColumnError(
                    f"no {what} 'prompt'; {shown}. Are these several? --delimiter names the "
                    "character between them"
                )
            by_name = {without_remarks(folded(name)): name for name in reversed(named)}
            likely = next((by_name[name] for name in PROMPTS if name in by_name), None)
            likely = likely or (named[0] if len(named) == 1 else "NAME")
            raise ColumnError(
                f"no {what} 'prompt'; {shown}. Which one has the prompts? "
                f"--prompt-column {_quoted(likely)}"
            )
        name = missing[0]
        raise ColumnError(
            f"no {what} {name!r}, which {self.service} needs; {shown}. Name it with "
            f"--map COLUMN={name}, or set it for all rows with --set {name}=VALUE"
        )


def classify(
    columns: Sequence[str], rules: ColumnRules, *, partial: bool = False, what: str = "column"
) -> tuple[list[Target], ColumnReport]:
    """Return the target of each column of a table, and the report of them.

    Unnamed columns are kept under their number, as `column_3`; empty ones have no values to keep.

    Args:
        columns: Names in the file.
        rules: What options say.
        partial: Whether there may be further columns.
        what: What columns are called in messages.

    Raises:
        ColumnError: A column that an option names is missing, two columns are the same, or a field
            that every row needs has no column.
    """
    names = [
        name if folded(name) else f"column_{place}" for place, name in enumerate(columns, start=1)
    ]
    others = frozenset(map(folded, names))
    any_service = "service" in others and not rules.metadata_only
    targets = [rules.target(name, others, any_service=any_service) for name in names]
    shown = f"the {what}s are: {', '.join(name.strip() for name in columns if folded(name))}"
    if not partial:
        _check_options(rules, others, f"no {what}", shown)
    found = [target.name for target in targets if target.kind == "field"]
    _check_repeats(names, targets, what, shown)
    if not any_service and not partial:
        rules.check_required(found, columns, what=what)
    report = ColumnReport()
    for column, name, target in zip(columns, names, targets, strict=True):
        if folded(column):
            report.add(name.strip(), target)
    return targets, report


def suspicion_message(report: ColumnReport, service: str) -> str:
    """Return the message for a file with suspicious columns, with the options that resolve it."""
    lines, options = [], []
    for suspicion in report.suspicious:
        column = suspicion.column
        if suspicion.meant is None:
            lines.append(f"{column} ({service} has no such parameter)")
            options.append(f"--keep {_quoted(column)}")
        elif suspicion.meant == "aspect_ratio" and folded(column) in SIZES:
            lines.append(f"{column} ({service} has aspect_ratio, such as 16:9)")
            options.append(f"--keep {_quoted(column)}")
        else:
            lines.append(f"{column} ({suspicion.meant}?)")
            options.append(f"--map {_quoted(f'{column}={suspicion.meant}')}")
    many = len(lines) > 1
    return (
        f"{'columns look' if many else 'a column looks'} like a parameter under another name: "
        f"{', '.join(lines)}; say what {'they are' if many else 'it is'}, such as "
        f"{' '.join(options)} (--map COLUMN=FIELD; --keep COLUMN: as metadata; --drop COLUMN)"
    )


def _check_options(rules: ColumnRules, others: frozenset[str], no: str, shown: str) -> None:
    for option, names in (
        ("prompt-column", [rules.prompt_column] if rules.prompt_column else []),
        ("map", list(rules.map)),
        ("keep", [name for name in rules.keep if name != EVERYTHING]),
        ("drop", list(rules.drop)),
    ):
        for name in names:
            if folded(name) not in others:
                raise ColumnError(f"--{option}: {no} {name!r}; {shown}")


def _check_repeats(names: Sequence[str], targets: Sequence[Target], what: str, shown: str) -> None:
    """Raise if two columns go to the same place."""
    places: dict[tuple[TargetKind, str], list[str]] = {}
    for name, target in zip(names, targets, strict=True):
        if target.kind in {"field", "kept"}:
            places.setdefault((target.kind, target.name), []).append(name.strip())
    for (_, name), alike in places.items():
        if len(alike) == 1:
            continue
        if len(set(map(folded, alike))) == 1:
            raise ColumnError(f"two {what}s are named {name!r}; {shown}")
        raise ColumnError(
            f"the {what}s {' and '.join(alike)} would both be named {name!r}: leave one out, "
            f"--drop {_quoted(alike[-1])}"
        )


def is_text(field: str) -> bool:
    """Return whether a value of a field may be any text."""
    return field.endswith(("prompt", "prompts"))


def is_parameter(name: str) -> bool:
    """Return whether a name is `id`, `service` or a field of any service."""
    return name in ROW_KEYS or name in ALL_FIELDS


def folded(name: str) -> str:
    """Return a name in lower case with underscores, trimmed, without invisible characters."""
    if not name.isascii():
        name = "".join(
            char
            for char in unicodedata.normalize("NFKC", name)
            if unicodedata.category(char) != "Cf"
        )
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def without_remarks(name: str) -> str:
    """Return a folded name without what surrounds it in `Seed#`, `Width (px)` and `params.seed`."""
    last = re.split(r"(?<=\w)\.(?=[^\W_])", name)[-1]
    return re.sub(r"\(.*?\)|\[.*?\]|[^\w]", "", last).strip("_") or name


def _meant_by(name: str, known: Collection[str]) -> Iterator[str]:
    """Yield the parameters that a name may stand for, or be a misspelling of; the likeliest first.

    Args:
        name: Folded, without underscores.
        known: The parameters of the service.
    """
    yield from (target for target in MEANT.get(name, ()) if target in known)
    if len(name) < SHORTEST - 1 or name in ORDINARY or name in ALL_FIELDS - set(known):
        return
    for target in sorted(known):
        word = target.replace("_", "")
        if len(word) >= SHORTEST and (name in {word, word + "s"} or _is_typo(name, word)):
            yield target
    for other, targets in MEANT.items():
        if len(other) >= SHORTEST and _is_typo(name, other):
            yield from (target for target in targets if target in known)


def _is_typo(name: str, word: str) -> bool:
    """Return whether a name is a word with one typing error: two letters swapped, one missing or
    doubled, or a vowel for another.
    """
    wrong = next(
        (place for place, (a, b) in enumerate(zip(name, word, strict=False)) if a != b), -1
    )
    if wrong < 0:  # one is the beginning of the other
        return name in {word[:-1], word + word[-1]}
    found, wanted = name[wrong:], word[wrong:]
    return (
        (found[0] in VOWELS and wanted[0] in VOWELS and found[1:] == wanted[1:])
        or (found[:2] == wanted[1::-1] and found[2:] == wanted[2:])
        or found == wanted[1:]
        or (found[1:] == wanted and found[0] == name[wrong - 1 : wrong])
    )


def own_name(name: str) -> str:
    """Return a name that does not shadow a fact about the result in metadata.jsonl."""
    return f"source_{name}" if name in FACTS or name in ALL_FIELDS else name


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w=.-]+", text) else quote(text)
