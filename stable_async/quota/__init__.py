"""A limiter for hard server-side quotas: no breach in any way of counting, nothing wasted."""

from stable_async.config import Quota
from stable_async.quota.books import Books, Extract, MemoryBooks, Slot
from stable_async.quota.limiter import Permit, QuotaLimiter, QuotaStatistics
from stable_async.quota.queue import Priority
from stable_async.quota.rule import Rule, RuleState

__all__ = [
    "Books",
    "Extract",
    "MemoryBooks",
    "Permit",
    "Priority",
    "Quota",
    "QuotaLimiter",
    "QuotaStatistics",
    "Rule",
    "RuleState",
    "Slot",
]
