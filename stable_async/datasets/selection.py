"""Which results of a job go into a data set, and into which split. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from stable_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Selection", "Splits"]

# What `datasets` accepts as the name of a split.
NAME = re.compile(r"[A-Za-z]\w*")
# Shares are written with few decimals.
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What of a job goes into a data set.

    Attributes:
        include_filtered: Include what the content filter blurred.
        only_listed: Leave out what is no longer in the prompt file.
        drop_duplicates: Of images that look alike, export only the first.
        splits: Shares of the splits by name, which sum to 1; empty means one split, `train`.
    """

    include_filtered: bool = False
    only_listed: bool = False
    drop_duplicates: bool = False
    splits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject invalid splits.

        Raises:
            ConfigurationError: A name or a share is invalid, or the shares do not sum to 1.
        """
        Splits.of(self.splits)


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a data set, each with its share.

    The id decides, so that a record stays in its split when others are added. Variants of one row,
    which have ids such as `fox[seed=1]`, stay together.

    Attributes:
        shares: Shares by name, in order; they sum to 1. Empty means one split, `train`.
    """

    shares: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Splits:
        """Return the splits with these shares.

        Raises:
            ConfigurationError: A name or a share is invalid, or the shares do not sum to 1.
        """
        for name, share in shares.items():
            if not NAME.fullmatch(name):
                raise ConfigurationError(
                    f"split is {name!r}; allowed: letters, digits and underscores, such as train"
                )
            if not 0 < share <= 1:
                raise ConfigurationError(
                    f"split {name} is {share:g}; allowed: a share above 0, up to 1"
                )
        total = sum(shares.values())
        if shares and abs(total - 1) > TOLERANCE:
            raise ConfigurationError(f"the shares of the splits sum to {total:g}; allowed: 1")
        return cls(tuple(shares.items()))

    @property
    def names(self) -> Sequence[str]:
        """The names; only `train` where there are no splits."""
        return [name for name, _ in self.shares] or ["train"]

    def of_id(self, identity: str) -> str:
        """Return the split that a record belongs to."""
        row, _, _ = identity.partition("[")
        place = int.from_bytes(blake2b(row.encode(), digest_size=8).digest()) / 2**64
        for name, share in self.shares:
            if place < share:
                return name
            place -= share
        return self.names[-1]
