"""A limiter for hard server-side quotas: no breach in any way of counting, nothing wasted."""

from stable_async.config import Quota
from stable_async.quota.fair_queue import Priority
from stable_async.quota.limiter import Permit, QuotaLimiter, QuotaStatistics
from stable_async.quota.rule import Rule, RuleState
from stable_async.quota.state import Books, Extract, MemoryBooks, Slot

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
