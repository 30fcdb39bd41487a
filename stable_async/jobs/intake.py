"""Reading of a prompt file into the ledger: every row is checked and compared with the job.

Ids are looked up in batches, and temporary tables hold what was seen, so that memory does not grow
with the number of rows. All calls block.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from hashlib import blake2b, file_digest
from typing import TYPE_CHECKING

from stable_async.api.services import SERVICES, service_name
from stable_async.jobs.errors import PromptFileError, RowProblem
from stable_async.jobs.inputs import InputFiles
from stable_async.jobs.plan import (
    Known,
    PlanReport,
    Positions,
    name_rows,
    number_repeats,
    plan_rows,
    repeated,
    taken_by,
)
from stable_async.jobs.read_ahead import Batches, ReadAhead
from stable_async.jobs.row import Row
from stable_async.jobs.rules import Checker
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.rules import PromptRules

__all__ = ["Intake"]

BATCH = 1_000
# Maximum problems that are reported; further ones are only counted.
KEPT_PROBLEMS = 1_000
# Seconds to wait for rows before checking whether they are still wanted.
LOOK = 0.1


# Services whose requests have no seed.
SEEDLESS = frozenset(
    name for name, service in SERVICES.items() if "seed" not in service.model.model_fields
)


class Intake:
    """Reads a prompt file into a ledger. Call all but `take` and `close` inside a transaction.

    Attributes:
        report: What was found so far.
    """

    def __init__(
        self,
        ledger: Ledger,
        prompts: PromptFile,
        rules: PromptRules,
        *,
        replace_changed: bool = False,
        change: bool = False,
        only_look: bool = False,
        needs_prices: bool = True,
    ) -> None:
        """Prepare to read.

        Args:
            ledger: Receives the rows.
            prompts: The file.
            rules: How its rows become images.
            replace_changed: Remake paid rows whose content changed.
            change: Make rows again that were made under other ids.
            only_look: Do not read input files that are not yet known.
            needs_prices: Refuse rows of unknown prices.

        Raises:
            PromptFileError: The rules are invalid.
        """
        problems = list(rules.problems())
        if needs_prices and not problems and (unknown := rules.price_problem(rules.service)):
            problems = [unknown]
        if problems:
            raise PromptFileError("options", problems)
        self._ledger = ledger
        self._prompts = prompts
        self._rules = rules
        self._replace_changed = replace_changed
        self._change = change
        self._checker = Checker(rules, needs_prices=needs_prices)
        # Files embedded in the prompt file are named by their content.
        self._inputs = (
            None
            if prompts.has_inputs_inside
            else InputFiles(ledger, prompts.folder, read_new=not only_look)
        )
        self._problems: list[RowProblem] = []
        self._problem_count = 0
        self._positions = Positions(rules.shard, 0)
        self._source: Batches[Row | RowProblem] | ReadAhead[Row | RowProblem] | None = None
        self._has_rows = False
        self._may_repeat = False
        self.report: PlanReport = PlanReport()

    def fingerprint(self) -> str | None:
        """Return a digest of the file and the rules; `None` for a file that can be read only
        once.
        """
        if self._prompts.path is None:
            return None
        digest = blake2b(digest_size=16)
        how = [self._prompts.reading, asdict(self._rules)]
        digest.update(json.dumps(how).encode())
        with self._prompts.path.open("rb") as file:
            return file_digest(file, lambda: digest).hexdigest()

    def run(self, on_rows: Callable[[int], None] = lambda count: None) -> PlanReport:
        """Read the file into the ledger, whole or not at all.

        A file that the ledger has read before, byte for byte, is not read again.

        Args:
            on_rows: Called with the number of images found so far, ten times a second while none
                come; it may raise to stop.

        Raises:
            PromptFileError: Rows are wrong; the error has all of them.
        """
        fingerprint = self.fingerprint()
        if (
            fingerprint is not None
            and fingerprint == self._ledger.get("prompts")
            and (self._inputs is None or self._inputs.are_unchanged())
        ):
            self.report.known = self._ledger.counts().total
            with closing(self._prompts.rows()) as first:
                next(first, None)  # reads the columns
            return self.report
        self._begin(checked=True)
        found = 0
        try:
            while not self.exhausted:
                rows = self.take()
                problems = self._add(rows)
                self._problem_count += len(problems)
                self._problems += problems[: KEPT_PROBLEMS - len(self._problems)]
                found += len(rows)
                on_rows(found)
        finally:
            self.close()
        if self._problem_count:
            raise PromptFileError(self._prompts.name, self._problems, self._problem_count)
        ledger, rules = self._ledger, self._rules
        gone = ledger.unlist_unseen()
        ledger.list_seen()
        if self._may_repeat and not rules.allow_duplicates:
            self.report.duplicates = ledger.merge_duplicates()
            self.report.added -= self.report.duplicates
        if self.report.added and not self._change:
            self._refuse_again(
                "what they ask for was made under other ids, which",
                "ids",
                *ledger.repeats_of_gone(),
            )
            self._refuse_again(
                "their input files had other names, which", "names", *ledger.moved_inputs()
            )
        if rules.sample is not None:
            ledger.list_sample(rules.shard.share(rules.sample))
        self.report.gone = gone if rules.are_whole else 0
        ledger.set(prompts=fingerprint, partial=int(not rules.are_whole))
        return self.report

    def _refuse_again(self, why: str, what: str, rows: int, price: float) -> None:
        """Refuse rows that were made, as when a column of ids is added or input files are moved."""
        if rows:
            problem = (
                f"{count(rows, 'row')} would be bought again, for {count(price, 'credit')}: {why} "
                f"are no longer in the file. Restore the {what}, or accept it with --change"
            )
            raise PromptFileError(self._prompts.name, [RowProblem(0, problem)])

    def begin_unchecked(self) -> None:
        """Begin to read a file that is not checked first; continue with `take` and
        `add_unchecked`.
        """
        self._begin(checked=False)
        self._ledger.unlist_all()
        self._ledger.set(prompts=None, partial=1)

    @property
    def exhausted(self) -> bool:
        """Whether all rows have been taken."""
        return self._source is None or self._source.exhausted

    def take(self) -> list[Row | RowProblem]:
        """Return the next rows, one for each image; none if none arrive within a moment.

        Raises:
            PromptFileError: The file cannot be read to its end, or has no prompts.
        """
        rows = [] if self._source is None else self._source.take(LOOK)
        self._has_rows = self._has_rows or bool(rows)
        if self.exhausted and not self._has_rows:
            raise PromptFileError(self._prompts.name, [RowProblem(0, "no prompts")])
        return rows

    def add_unchecked(self, rows: Sequence[Row | RowProblem]) -> None:
        """Store the rows returned by `take`; invalid rows fail at once."""
        problems: dict[int, list[str]] = {}
        for problem in self._add(rows):
            problems.setdefault(problem.row, []).append(problem.text)
        bad = self._ledger.add_bad_rows(
            service_name(self._rules.service),
            {row: "; ".join(texts) for row, texts in problems.items()},
        )
        self.report.bad += bad
        self.report.states["failed"] += bad
        self._begin_positions()
        self._ledger.list_seen()

    def end_unchecked(self) -> None:
        """Record that the file was read to its end."""
        self._ledger.set(partial=int(not self._rules.are_whole))

    def close(self) -> None:
        """Stop reading."""
        if self._source is not None:
            self._source.close()

    def _begin(self, *, checked: bool) -> None:
        self._ledger.begin_plan(checked=checked)
        self._begin_positions()
        read = ReadAhead if self._prompts.is_pipe else Batches
        self._source = read(self._read(), BATCH)

    def _begin_positions(self) -> None:
        self._positions = Positions(self._rules.shard, self._ledger.last_position())

    def _read(self) -> Generator[Row | RowProblem, None, None]:
        left, place = self._rules.limit, 0
        with closing(self._prompts.rows()) as rows:
            for row in rows:
                for one in [row] if isinstance(row, RowProblem) else self._rules.expand(row):
                    place += 1
                    if isinstance(one, Row):
                        if left is not None and place > left:
                            return
                        one.position = place
                    yield one

    def _add(self, found: Sequence[Row | RowProblem]) -> list[RowProblem]:
        """Store the next rows, and return their problems in order."""
        if not found:
            return []
        ledger = self._ledger
        rows = [row for row in found if isinstance(row, Row)]
        problems = [problem for problem in found if isinstance(problem, RowProblem)]
        # A derived seed is unique to its row, and rows without ids that repeat are found below.
        named = [row for row in rows if row.id]
        self._may_repeat = self._may_repeat or any(
            "seed" in row.fields or row.service in SEEDLESS for row in named
        )
        if self._inputs is not None:
            self._inputs.add_to_content(rows)
        unnamed = name_rows(rows)
        known = self._known({row.id for row in rows})
        if again := repeated(rows, unnamed, known):
            self._may_repeat = True
            counts = Counter(row.content for row in again)
            number_repeats(again, ledger.count_repeats(counts))
            known |= self._known({row.id for row in again})
        if self._rules.shard.count > 1:
            rows = self._own_part(rows, known, problems)
        positions = self._positions
        beyond = [row.position for row in rows if row.position <= positions.last]
        positions.begin(ledger.taken(beyond) if beyond else {})
        plan = plan_rows(
            rows,
            known,
            partial(self._checker.check, folder=self._prompts.folder),
            positions=positions,
            replace_changed=self._replace_changed,
        )
        ledger.apply(plan)
        self.report.count(plan)
        return sorted(problems + plan.problems, key=lambda problem: problem.row)

    def _known(self, ids: Collection[str]) -> dict[str, Known]:
        """Return what is known of ids; those of rows in other parts count as seen."""
        known = self._ledger.known(ids)
        if self._rules.shard.count > 1:
            for identity, row in self._ledger.elsewhere(ids).items():
                there = known.get(identity) or Known(0, None, "waiting", paid=False)
                known[identity] = replace(there, seen_in_row=there.seen_in_row or row)
        return known

    def _own_part(
        self, rows: list[Row], known: Mapping[str, Known], problems: list[RowProblem]
    ) -> list[Row]:
        """Return the rows of this part; the ids of the others are recorded as taken."""
        shard = self._rules.shard
        own: list[Row] = []
        here: dict[str, int] = {}
        for row in rows:
            there = known.get(row.id)
            if first := here.get(row.id) or (there.seen_in_row if there else 0):
                problems.append(RowProblem(row.number, taken_by(row, first)))
            elif shard.has(row.position):
                own.append(row)
            here.setdefault(row.id, row.number)
        self._ledger.note_elsewhere(
            {row.id: row.number for row in rows if not shard.has(row.position)}
        )
        return own
