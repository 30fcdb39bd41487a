"""The facts of a row, one JSON object beside its image: what was claimed, paid and made. Pure.

Where images are in a bucket, the bucket outlives the folder of the job. `NAME.json` beside
`NAME.png` is written as a claim before the request leaves, and completed before the image is
written. A claim without an image is in doubt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import ChargeState, ImageFacts, Result, Row, State, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FACTS_SUFFIX", "Charge", "RowFacts", "read_facts"]

SCHEMA = 1
FACTS_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Charge:
    """What one attempt cost, or may have cost.

    Attributes:
        attempt: Number of the attempt, from 1.
        price: Credits; `None` where no source states them.
        state: State of the charge: `reserved` from the claim to the answer.
        generation_id: Id of the asynchronous operation that it paid for.
        claim: Token of the claimant: distinguishes a repeated write of its own from another's.
    """

    attempt: int
    price: float | None
    state: ChargeState
    generation_id: str | None = None
    claim: str = ""


@dataclass(frozen=True, slots=True)
class RowFacts:
    """All facts of a row; `resolved` interprets them.

    Attributes:
        id: Id of the row.
        service: Name of the service.
        fields: Fields of the API, without the seed.
        metadata: The rest of the row.
        seed: Given or derived; `None` where the service takes none.
        price: Credits; `None` where no source states them.
        position: Place in the job, from 1; 0 outside of a job.
        number: Row of the prompt file.
        content: Digest of service and fields, hexadecimal.
        copy: Number of the row among those with the same content, from 1.
        remake: How many times the image was replaced.
        state: State of the row when this was written.
        charges: One for each attempt, in order.
        image: Facts of the image, complete before the image is written.
        reason: Why there is no image, in a word or two.
        error: The same in full.
    """

    id: str
    service: str
    fields: dict[str, object]
    metadata: dict[str, object] = field(default_factory=dict)
    seed: int | None = None
    price: float | None = None
    position: int = 0
    number: int = 0
    content: str = ""
    copy: int = 1
    remake: int = 0
    state: State = "in flight"
    charges: tuple[Charge, ...] = ()
    image: ImageFacts | None = None
    reason: str | None = None
    error: str | None = None

    @classmethod
    def claim(cls, row: Row, token: str, before: RowFacts | None = None) -> RowFacts:
        """Return the claim of a row whose request is about to leave.

        Args:
            row: The row, with its seed and price.
            token: Token of the claimant.
            before: The facts that an earlier attempt left; a charge that it left open becomes in
                doubt.
        """
        charges = () if before is None else _closed(before.charges)
        attempt = max(row.attempts, len(charges)) + 1
        charge = Charge(attempt, row.price, "reserved", None, token)
        return cls.of(row, "in flight", (*charges, charge), None, None)

    @classmethod
    def of(
        cls,
        row: Row,
        state: State,
        charges: Sequence[Charge],
        reason: str | None,
        error: str | None,
    ) -> RowFacts:
        """Return the facts of a row without an image, from the ledger."""
        return cls(
            id=row.id,
            service=row.service,
            fields=row.fields,
            metadata=row.metadata,
            seed=row.seed,
            price=row.price,
            position=row.position,
            number=row.number,
            content=row.content.hex(),
            copy=row.copy,
            remake=row.remake,
            state=state,
            charges=tuple(charges),
            reason=reason,
            error=error,
        )

    def accepted(self, generation_id: str) -> RowFacts:
        """Return the facts after an asynchronous operation was accepted, and so paid for."""
        return replace(self, charges=self._last("spent", generation_id))

    def made(self, image: ImageFacts) -> RowFacts:
        """Return the facts after the image arrived, which proves that it was paid for."""
        paid = tuple(replace(charge, state="spent") for charge in self.charges[-1:])
        return replace(
            self,
            state="filtered" if image.filtered else "done",
            charges=(*self.charges[:-1], *paid),
            image=image,
            reason=None,
            error=None,
        )

    def moved(self, file_name: str) -> RowFacts:
        """Return the facts with another file name of the image."""
        image = None if self.image is None else replace(self.image, file_name=file_name)
        return replace(self, image=image)

    def settled(self, result: Result) -> RowFacts:
        """Return the facts after an attempt ended without an image."""
        return replace(
            self,
            state=result.state,
            charges=self._last(result.charge),
            reason=result.reason,
            error=result.error,
        )

    def resolved(self, *, has_image: bool) -> RowFacts:
        """Return the facts as the next run finds the row.

        Args:
            has_image: Whether the image exists.

        Returns:
            Facts without a `reserved` charge, whose state is not `in flight`: `done` or
            `filtered` with an image; `waiting` where a generation can be fetched, or nothing was
            billed; `in doubt` for a claim without an image; `again` or `failed` after a refusal.
        """
        if has_image and self.image is not None:
            return self.made(self.image)
        if self.image is not None:
            reason = "image lost"
            text = "its image arrived and was not stored before the run ended"
            return replace(self, state="in doubt", image=None, reason=reason, error=text)
        if self.generation_id is not None and self.state in {"in flight", "waiting", "again"}:
            return replace(self, state="waiting")
        charges = _closed(self.charges)
        if any(charge.state == "in doubt" for charge in charges) and self.state != "failed":
            reason = self.reason or "in flight at the end"
            text = self.error or "the run ended while the request was on its way"
            return replace(self, state="in doubt", charges=charges, reason=reason, error=text)
        return replace(self, charges=charges)

    @property
    def generation_id(self) -> str | None:
        """Id of the asynchronous operation that the last attempt paid for."""
        return self.charges[-1].generation_id if self.charges else None

    @property
    def token(self) -> str:
        """Token of the claimant of the last attempt."""
        return self.charges[-1].claim if self.charges else ""

    def to_json(self) -> bytes:
        """Return the object to store, as JSON."""
        return to_json(self.stored()).encode() + b"\n"

    def stored(self) -> dict[str, object]:
        """Return the object to store, as JSON values."""
        return {"schema": SCHEMA, **asdict(self)}

    def _last(self, state: ChargeState, generation_id: str | None = None) -> tuple[Charge, ...]:
        """Return the charges with a new state of the last one, if it is still open."""
        if not self.charges or self.charges[-1].state not in {"reserved", "in doubt"}:
            return self.charges
        last = self.charges[-1]
        known = generation_id or last.generation_id
        return (*self.charges[:-1], replace(last, state=state, generation_id=known))


def _closed(charges: Sequence[Charge]) -> tuple[Charge, ...]:
    """Return the charges with none reserved: a reserved one has no answer, and becomes in doubt."""
    return tuple(
        replace(charge, state="in doubt") if charge.state == "reserved" else charge
        for charge in charges
    )


def read_facts(data: bytes, name: str) -> RowFacts:
    """Return the facts that `RowFacts.to_json` wrote; `name` is their URL, for messages.

    Raises:
        StorageError: They were written by a newer version, or are not facts.
    """
    try:
        schema = _schema().validate_json(data).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise StorageError(
                f"{name} was written by a newer stable-async (facts version {schema}, this one "
                f"knows {SCHEMA}): upgrade stable_async"
            )
        facts = _adapter().validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise StorageError(f"{name} is not readable: {what}") from None
    if facts.image is not None and not (facts.image.file_name and facts.image.sha256):
        raise StorageError(f"{name} is not readable: its image has no file")
    return facts


@cache
def _adapter() -> TypeAdapter[RowFacts]:
    return TypeAdapter(RowFacts)


@cache
def _schema() -> TypeAdapter[dict[str, object]]:
    return TypeAdapter(dict[str, object])
