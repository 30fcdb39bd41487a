"""Queue rows of earlier runs that this run makes again, and report the price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.jobs.row import derive_seed
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.row import State
    from stable_async.jobs.settings import JobSettings
    from stable_async.jobs.shard import Shard

__all__ = ["requeue"]

NAMES_AT_A_TIME = 1_000


def requeue(
    ledger: Ledger,
    settings: JobSettings,
    shard: Shard,
    missing: Callable[[Iterable[str]], Sequence[str]],
) -> Iterator[str]:
    """Queue rows that a run makes again. Call it inside a transaction; it blocks.

    `missing` returns which image files are gone.

    Yields:
        What is made again and its price, in whole sentences.
    """
    states: list[State] = ["again"]
    if settings.retry == "failed":
        states.append("failed")
    ledger.requeue(*states, gone=not settings.check)
    if settings.retry == "filtered":
        yield from _remake_filtered(ledger, shard)
    if settings.remake_missing:
        yield from _remake_missing(ledger, missing, gone=not settings.check)


def _remake_filtered(ledger: Ledger, shard: Shard) -> Iterator[str]:
    rows = ledger.rows("filtered")
    for row in rows:
        remake = row.remake + 1
        seed = None if row.seed is None else derive_seed(row.id, row.copy, remake)
        ledger.remake(row, seed, shard.next_position(ledger.last_position()))
    if rows:
        price = sum(row.price or 0.0 for row in rows)
        yield (
            f"{count(len(rows), 'filtered image')}: made again with another seed, also where "
            f"the row names one, for {count(price, 'credit')}; what is replaced goes to replaced/"
        )


def _remake_missing(
    ledger: Ledger, missing: Callable[[Iterable[str]], Sequence[str]], *, gone: bool
) -> Iterator[str]:
    after, missed, price = 0, 0, 0.0
    while some := ledger.image_names(after, NAMES_AT_A_TIME, gone=gone):
        after = some[-1][0]
        names = set(missing([name for _, name, _ in some]))
        lost = [(position, cost) for position, name, cost in some if name in names]
        ledger.forget_images([position for position, _ in lost])
        missed += len(lost)
        price += sum(cost or 0.0 for _, cost in lost)
    if missed:
        yield f"{count(missed, 'missing image file')}: made again, for {count(price, 'credit')}"
