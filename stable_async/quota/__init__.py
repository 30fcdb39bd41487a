"""A limiter for hard server-side quotas: no breach whatever the server's way of counting, and no
waste.
"""

from stable_async.config import Quota
from stable_async.quota.fair_queue import Priority
from stable_async.quota.homes.base import QuotaHome, Waiters
from stable_async.quota.homes.local import ProcessHome
from stable_async.quota.limiter import Permit, QuotaLimiter, QuotaStatistics
from stable_async.quota.rule import Rule, RuleState
from stable_async.quota.shared import KeyQuota, SharedQuota, quota_of
from stable_async.quota.state import QuotaState, Slot, Snapshot

__all__ = [
    "KeyQuota",
    "Permit",
    "Priority",
    "ProcessHome",
    "Quota",
    "QuotaHome",
    "QuotaLimiter",
    "QuotaState",
    "QuotaStatistics",
    "Rule",
    "RuleState",
    "SharedQuota",
    "Slot",
    "Snapshot",
    "Waiters",
    "quota_of",
]
