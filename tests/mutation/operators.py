"""The mutants of a source file: one small change each.

Texts and logs are left out, as is what does not run: annotations, decorators, `__repr__`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.mutation import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Mutant", "mutants"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGS = re.compile(r"(^|\.)_?(log|logger|logging|warnings)\.|(^|\.)_?(warn|log)$")
# A state or the name of something; everything else is a text for people, unless it is SQL.
_WORD = re.compile(r"[a-z][a-z_]*( [a-z]+)?")
_UNREAD = {"__repr__", "__str__"}


class Mutant(NamedTuple):
    """One change of a module.

    Attributes:
        line: The line of the change.
        span: The lines of the innermost statement around it; of a block, those of its head.
        name: The function it is in, and the source as it was and as it is; unique.
        parent, field, at: Where the changed node hangs in the tree.
        new: What is put there.
    """

    line: int
    span: range
    name: str
    parent: ast.AST
    field: str
    at: int | None
    new: ast.AST | list[ast.stmt]

    def apply(self) -> None:
        """Change the tree that the mutant was made of."""
        if self.at is None:
            setattr(self.parent, self.field, self.new)
        else:
            new = self.new if isinstance(self.new, list) else [self.new]
            getattr(self.parent, self.field)[self.at : self.at + 1] = new


def mutants(source: str) -> tuple[list[Mutant], ast.Module]:
    """Return all mutants of a module, in the order of its lines, and the tree they change."""
    tree = ast.parse(source)
    lines = source.splitlines()
    names: Counter[str] = Counter()
    spans = _spans(tree)
    found = []
    for place, parent, field, at in _nodes(tree, "module"):
        value = getattr(parent, field)
        node = value if at is None else value[at]
        if "pragma: no cover" in lines[getattr(node, "lineno", 1) - 1]:
            continue
        for new in _changes(node):
            for each in new if isinstance(new, list) else [new]:
                if not hasattr(each, "lineno"):
                    ast.fix_missing_locations(ast.copy_location(each, node))
            change = f"{_short(node)} -> {_short(new)}"
            if isinstance(new, ast.Constant | ast.JoinedStr) and sql.is_sql(ast.unparse(node)):
                change = sql.difference(ast.unparse(node), ast.unparse(new))
            name = f"{place}: {change}"
            names[name] += 1
            name += f" ({names[name]})" if names[name] > 1 else ""
            span = spans.get(node.lineno, range(node.lineno, node.lineno + 1))
            found.append(Mutant(node.lineno, span, name, parent, field, at, new))
    return sorted(found, key=lambda mutant: mutant.line), tree


def _spans(tree: ast.Module) -> dict[int, range]:
    """Return the lines of the simple statement, or of the head of the block, around each line."""
    spans: dict[int, range] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            lines = range(node.lineno, end)
            spans.update(dict.fromkeys(lines, lines))
    return spans


def _nodes(node: ast.AST, place: str) -> Iterator[tuple[str, ast.AST, str, int | None]]:
    """Yield what may be changed: the function it is in, and where it hangs in the tree."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_comment", "bases"}:
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for at, child in children:
            if not isinstance(child, ast.AST) or _left_out(child):
                continue
            inside = place
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = child.name if place == "module" else f"{place}.{child.name}"
            yield inside, node, name, at
            if not isinstance(child, ast.JoinedStr):
                yield from _nodes(child, inside)


def _left_out(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.FunctionDef(name=name):
            return name in _UNREAD
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return True
        case ast.JoinedStr(values):
            return not any(sql.is_sql(ast.unparse(one)) for one in values)
        case ast.Assert() | ast.Assign(value=ast.Subscript(value=ast.Name(id="Literal"))):
            return True
        case ast.Call(func=func):
            return bool(_LOGS.search(ast.unparse(func)))
        case ast.Expr(value=value):
            return _left_out(value)
    return False


def _changes(node: ast.AST) -> Iterator[ast.AST | list[ast.stmt]]:
    if isinstance(node, ast.expr):
        yield from _expressions(node)
    elif isinstance(node, ast.stmt):
        yield from _statements(node)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, operators, right):
            for at, operator in enumerate(operators):
                if type(operator) in _COMPARISONS:
                    new = [*operators[:at], _COMPARISONS[type(operator)](), *operators[at + 1 :]]
                    yield ast.Compare(left, new, right)
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield ast.BoolOp(other, values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
            if not any(_is_text(side) for side in (left, right)):
                new_operator = _ARITHMETIC[type(operator)]()
                yield ast.BinOp(left, new_operator, right)
        case ast.Call(ast.Name(id=name), arguments, keywords) if name in _CALLS:
            other_name = ast.Name(_CALLS[name], ast.Load())
            yield ast.Call(other_name, arguments, keywords)
        case ast.IfExp(test, body, orelse) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.IfExp(_negated(test), body, orelse)
        case ast.Constant(value):
            yield from _constants(value)
        case ast.JoinedStr(values):
            yield from _formatted(values)


def _constants(value: object) -> Iterator[ast.expr]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int() | float():
            yield ast.Constant(value + 1)
        case str() if _WORD.fullmatch(value):
            yield ast.Constant(f"not {value}")
        case str() if sql.is_sql(value):
            yield from map(ast.Constant, sql.changes(value))


def _formatted(values: list[ast.expr]) -> Iterator[ast.expr]:
    for at, part in enumerate(values):
        if isinstance(part, ast.Constant):
            for text in sql.changes(str(part.value)):
                yield ast.JoinedStr([*values[:at], ast.Constant(text), *values[at + 1 :]])


def _statements(node: ast.stmt) -> Iterator[ast.AST | list[ast.stmt]]:
    nothing = ast.Pass()
    match node:
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield nothing
        case ast.Break() | ast.Continue():
            yield nothing
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield nothing
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Return(value=None):
            yield nothing
        case ast.If(test, body, orelse) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.If(_negated(test), body, orelse)
        case ast.With(items, body) | ast.AsyncWith(items, body):
            if all(item.optional_vars is None for item in items):
                yield body
        case ast.Try(body, handlers, orelse, finalbody) if finalbody:
            new = ast.Try(body, handlers, orelse, [ast.Pass()])
            yield new


def _negated(test: ast.expr) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _short(node: ast.AST | list[ast.stmt]) -> str:
    """Return the first line of a node's source."""
    text = " ".join(map(ast.unparse, node)) if isinstance(node, list) else ast.unparse(node)
    line, *more = text.splitlines()
    if more and isinstance(node, ast.Try):
        line = "finally: ..." if node.finalbody and not _empty(node.finalbody) else "finally: pass"
    return line if len(line) <= 90 else line[:87] + "..."


def _empty(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)
