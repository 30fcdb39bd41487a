"""Numbers as people read them."""

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Give `1 h 02 min`, `3 min 20 s` or `41 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
