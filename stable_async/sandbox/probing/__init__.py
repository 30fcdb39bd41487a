"""The facts held against an API: what they claim, what would show it, and what was shown."""

from stable_async.sandbox.probing.claims import Claim, claims
from stable_async.sandbox.probing.prober import Prober
from stable_async.sandbox.probing.sender import Sender
from stable_async.sandbox.probing.wire import Finding, ProbeAnswer, ProbeRequest

__all__ = ["Claim", "Finding", "ProbeAnswer", "ProbeRequest", "Prober", "Sender", "claims"]
