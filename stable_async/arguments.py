"""Arguments checked at run time as a type checker would: their names, types and values.

A rule takes a value and returns it in the type that the code works with; it raises `UnfitError`,
which says what is allowed. Settings turn that into a `ConfigurationError`, calls into an
`InvalidRequestError`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import wraps
from inspect import Parameter, signature
from math import isfinite
from numbers import Real
from operator import index
from typing import TYPE_CHECKING, TypeVar

from stable_async.errors import ConfigurationError
from stable_async.wording import as_given

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

__all__ = [
    "UnfitError",
    "at_least",
    "checked_arguments",
    "checked_setting",
    "choice",
    "flag",
    "instance",
    "non_negative",
    "or_none",
    "path_like",
    "positive_seconds",
    "printable",
    "seconds",
    "text",
    "unknown_word",
    "with_methods",
]

T = TypeVar("T")

# What other clients, or another place of this one, call a setting.
OTHER_WORDS = {
    "max_retries": "retry",
    "retries": "retry",
    "key": "api_key",
    "token": "api_key",
    "url": "base_url",
    "endpoint": "base_url",
    "proxies": "proxy",
    "verify": "ssl",
    "http_client": "session",
    "max_concurrency": "max_in_flight",
    "concurrency": "max_in_flight",
}


class UnfitError(ValueError):
    """A value breaks a rule; the text says what is allowed."""


def _number(allowed: str, *, or_zero: bool) -> Callable[[object], float]:
    def rule(value: object) -> float:
        if not isinstance(value, bool) and isinstance(value, Real):
            with suppress(OverflowError):  # a whole number may be beyond all of them
                number = float(value)
                if isfinite(number) and (number > 0 or (or_zero and number == 0)):
                    return number
        raise UnfitError(allowed)

    return rule


seconds: Callable[[object], float] = _number("a number of seconds, 0 or more", or_zero=True)
positive_seconds: Callable[[object], float] = _number("a number of seconds above 0", or_zero=False)
non_negative: Callable[[object], float] = _number("a number, 0 or more", or_zero=True)


def at_least(least: int) -> Callable[[object], int]:
    """Return the rule for a whole number of at least `least`."""

    def rule(value: object) -> int:
        try:
            whole = index(value)  # type: ignore[arg-type]  # raises for what has no index
        except TypeError:
            whole = least - 1
        if whole < least or isinstance(value, bool):
            raise UnfitError(f"a whole number, {least} or more")
        return whole

    return rule


def choice(*words: str) -> Callable[[object], str]:
    """Return the rule for one of `words`."""

    def rule(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        near = f" (did you mean {hint!r}?)" if (hint := _nearest(value, words)) else ""
        raise UnfitError(" or ".join(map(repr, words)) + near)

    return rule


def path_like(value: object) -> Path:
    """Take a path, as text or as a path object."""
    from pathlib import Path  # costs half a millisecond of the package's import

    if isinstance(value, str | os.PathLike) and not isinstance(text := os.fspath(value), bytes):
        return Path(text)
    raise UnfitError("a path, as text or a path object")


def instance(kind: type[T], allowed: str) -> Callable[[object], T]:
    """Return the rule for an object of `kind`."""

    def rule(value: object) -> T:
        if isinstance(value, kind):
            return value
        raise UnfitError(allowed)

    return rule


text: Callable[[object], str] = instance(str, "text")
flag: Callable[[object], bool] = instance(bool, "True or False")


def with_methods(protocol: type) -> Callable[[object], object]:
    """Return the rule for an object that has the methods of a protocol."""
    names = [name for name in vars(protocol) if not name.startswith("_")]

    def rule(value: object) -> object:
        if all(callable(getattr(value, name, None)) for name in names):
            return value
        raise UnfitError(f"an object with the methods of {protocol.__name__}")

    return rule


def printable(longest: int) -> Callable[[object], str]:
    """Return the rule for text that an HTTP header can carry, up to `longest` characters."""

    def rule(value: object) -> str:
        if (
            isinstance(value, str)
            and len(value) <= longest
            and value.isascii()
            and value.isprintable()
        ):
            return value
        raise UnfitError(f"printable ASCII, up to {longest} characters")

    return rule


def or_none(rule: Callable[[object], T]) -> Callable[[object], T | None]:
    """Return the rule for a value of `rule`, or `None`."""

    def with_none(value: object) -> T | None:
        if value is None:
            return None
        try:
            return rule(value)
        except UnfitError as error:
            raise UnfitError(f"{error}, or None") from None

    return with_none


def checked_setting(name: str, value: object, rule: Callable[[object], T]) -> T:
    """Return the value of a setting as `rule` returns it.

    Raises:
        ConfigurationError: It breaks the rule.
    """
    try:
        return rule(value)
    except UnfitError as error:
        plain = isinstance(value, str | int | float | None)
        shown = as_given(value) if plain else type(value).__name__
        raise ConfigurationError(f"{name} is {shown[:80]}; allowed: {error}") from None


def unknown_word(word: str, known: Collection[str], kind: str = "argument") -> str:
    """Describe a word of a kind that is not in `known`, and suggest the nearest one that is."""
    near = OTHER_WORDS.get(word)
    if near not in known:
        near = _nearest(word, known)
    return f"no such {kind}, did you mean {near}?" if near else f"no such {kind}"


def checked_arguments(
    rules: Mapping[str, Callable[[object], object]], prefix: str = ""
) -> Callable[[type[T]], type[T]]:
    """Let a class of settings check what it is made with, and refuse unknown keywords.

    Python's `TypeError` is not an error of this package, and before version 3.13 it does not
    suggest the nearest name. What is not passed is not checked: defaults are within their rules.

    Args:
        rules: By name of an argument, the rule for its value; the class receives what it returns.
        prefix: What stands before a name in messages.

    Raises:
        ConfigurationError: From the class: a keyword is unknown, or a value breaks its rule.
    """

    def with_checks(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__
        parameters = list(signature(init).parameters.values())[1:]
        known = [one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD]

        @wraps(init)
        def checked(self: T, *args: object, **settings: object) -> None:
            for word in settings:
                if word not in known:
                    raise ConfigurationError(
                        f"{cls.__name__}: {word}: {unknown_word(word, known)}; "
                        f"allowed: {', '.join(known)}"
                    )
            positional = list(args)
            for place, name in enumerate(known[: len(args)]):
                if name in rules:
                    positional[place] = checked_setting(prefix + name, args[place], rules[name])
            for name, value in settings.items():
                if name in rules:
                    settings[name] = checked_setting(prefix + name, value, rules[name])
            init(self, *positional, **settings)

        cls.__init__ = checked  # type: ignore[method-assign, assignment]
        return cls

    return with_checks


def _nearest(word: object, known: Collection[str]) -> str | None:
    from difflib import get_close_matches  # costs a millisecond of the package's import

    if not isinstance(word, str):
        return None
    return next(iter(get_close_matches(word.lower().replace("-", "_"), known, n=1)), None)
