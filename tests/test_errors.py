"""The tree of errors: drawn as it is, picklable, no other library's error comes out."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from stable_async import errors
from stable_async.transport.error_mapping import UNSENT, translate
from tests.errors_of import api_error, timed_out, unreadable


def drawn() -> dict[str, str]:
    """Read class and base from the tree in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.fullmatch(r" {4}([│├└─ ]*)(\w+Error)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_drawn_tree_is_the_tree() -> None:
    actual = {
        name: cls.__bases__[0].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, BaseException)
    }
    assert drawn() == actual


def test_every_error_is_raised_by_the_package() -> None:
    """An error that nothing raises would have users write code that never runs.

    One is for applications to raise, and its documentation says so.
    """
    root = Path(errors.__file__).parent
    used = {
        node.id
        for path in root.rglob("*.py")
        if path.name not in ("errors.py", "__init__.py", "web.py")  # `web.py` only answers them
        for raising in ast.walk(ast.parse(path.read_text()))
        if isinstance(raising, ast.Call | ast.Assign | ast.AnnAssign)
        for node in ast.walk(raising)
        if isinstance(node, ast.Name)
    }
    leaves = {name for name in drawn() if name not in drawn().values()}
    for_applications = {"BudgetExceededError"}
    assert leaves - used == for_applications


EXAMPLES: list[errors.StabilityError] = [
    errors.ConfigurationError("no key"),
    errors.InvalidRequestError("GenerateCore", [errors.FieldProblem("seed", "given -1", "0 on")]),
    errors.QuotaTimeoutError("too late", retry_after=4.5),
    api_error(429),
    timed_out(),
    unreadable(),
    errors.ContentFilteredError(b"result"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: errors.StabilityError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


KEY = ConnectionKey("host", 1, False, True, None, None, None)
REQUEST = aiohttp.RequestInfo(
    URL("http://host"), "POST", CIMultiDictProxy(CIMultiDict[str]()), URL("http://host")
)
EXAMPLE_ARGUMENTS: list[tuple[object, ...]] = [
    (),
    ("text",),
    (KEY, OSError(1, "reason")),
    (KEY, ValueError("reason")),
    (REQUEST, ()),
    (b"expected", b"got", "host", 1),
]


def instances_of_every_aiohttp_error() -> list[Exception]:
    found: list[Exception] = []
    for name in aiohttp.__all__:
        cls = getattr(aiohttp, name)
        if not (inspect.isclass(cls) and issubclass(cls, aiohttp.ClientError)):
            continue
        for arguments in EXAMPLE_ARGUMENTS:
            try:
                error = cls(*arguments)
                str(error)
            except (TypeError, AttributeError):
                continue
            found.append(error)
            break
        else:
            pytest.fail(f"no example of {name}: add its arguments")
    return found


@pytest.mark.parametrize(
    "error",
    [
        *instances_of_every_aiohttp_error(),
        TimeoutError(),
        OSError(28, "No space"),
        ConnectionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_of_the_layers_below_becomes_ours(error: Exception) -> None:
    ours = translate(error, sent=True, asked="submit")
    never_connected = isinstance(error, UNSENT)
    assert ours.maybe_billed is not never_connected
    assert isinstance(ours, errors.APITimeoutError) == isinstance(error, TimeoutError)
