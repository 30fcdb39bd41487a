"""The facts held against an API: what they claim, what would show it, and what was shown."""
