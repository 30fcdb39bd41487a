"""Numbers formatted for people."""

__all__ = ["amount", "as_given", "count", "duration"]

MOST_BITS = 512  # Python does not write whole numbers of more than 4,300 digits


def amount(number: float) -> str:
    """Return `1,234` or `2.5`: every digit before the decimal point, and up to six after it."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6f}".rstrip("0").rstrip(".")


def as_given(value: object) -> str:
    """Return a value as Python writes it; a very long whole number is described."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)


def count(number: float, noun: str) -> str:
    """Return `1 image`, `0 images`, `1,234 images`, `2.5 credits`."""
    return f"{amount(number)} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """Return `1 h 02 min`, `3 min 20 s` or `41 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
