"""Functions found in a source by its syntax tree, their bodies taken out, and others put in.

Everything works on the text of the source, by the positions that the tree records: what is not
replaced keeps its comments and its form.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator
from dataclasses import dataclass

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class HoleError(Exception):
    """A function cannot be taken out of a source, or put into one; the message says why."""


def find_function(source: str, name: str, where: str = "the source") -> FunctionNode:
    """The syntax tree of a function.

    Args:
        source: Python source.
        name: "function", or "Class.method".
        where: What the source is called in errors.

    Returns:
        The node; its line numbers are those of `source`.

    Raises:
        HoleError: The source does not define it, or defines it more than once.
        SyntaxError: The source is not Python.
    """
    nodes: list[ast.AST] = [ast.parse(source)]
    for part in name.split("."):
        nodes = [
            child
            for node in nodes
            for child in getattr(node, "body", [])
            if isinstance(child, FunctionNode | ast.ClassDef) and child.name == part
        ]
    functions = [node for node in nodes if isinstance(node, FunctionNode)]
    if len(functions) != 1:
        there = "does not define" if not functions else f"defines {len(functions)} times"
        raise HoleError(f"{where} {there} the function {name}; expected it exactly once")
    return functions[0]


def function_lines(source: str, name: str, where: str = "the source") -> tuple[int, int]:
    """The lines [first, last) of a function, counted from 0, with its decorators."""
    node = find_function(source, name, where)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    assert node.end_lineno is not None
    return first - 1, node.end_lineno


def function_source(source: str, name: str, where: str = "the source") -> str:
    """The text of a function as it stands in the source, with its decorators."""
    first, last = function_lines(source, name, where)
    return "\n".join(source.splitlines()[first:last]) + "\n"


def body_statements(node: FunctionNode) -> list[ast.stmt]:
    """The statements of a function but for its docstring."""
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def is_hole(node: FunctionNode) -> bool:
    """True if nothing but a docstring and `raise NotImplementedError`, `pass` or `...` is there."""
    rest = body_statements(node)
    if not rest:
        return True
    if len(rest) > 1:
        return False
    (only,) = rest
    if isinstance(only, ast.Raise) and only.exc is not None:
        raised = only.exc.func if isinstance(only.exc, ast.Call) else only.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    constant = isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)
    return isinstance(only, ast.Pass) or constant


def take_out(source: str, name: str, message: str, docstring: str = "", where: str = "") -> str:
    """A source in which the body of a function raises NotImplementedError instead.

    Its signature, decorators and docstring stay. The comments in its body go with it.

    Args:
        source: Python source.
        name: "function", or "Class.method".
        message: What the error says.
        docstring: A docstring in place of the function's own (default: its own).
        where: What the source is called in errors.

    Returns:
        The new source.

    Raises:
        HoleError: There is no such function, or its body stands on the line of its `def`.
    """
    node = find_function(source, name, where or "the source")
    lines = source.splitlines()
    rest = body_statements(node)
    own = len(rest) < len(node.body)
    if not rest:
        raise HoleError(f"{where}: {name} has no body to take out")
    # 1. Where the body starts: after the docstring, or after the colon of the `def`.
    start = node.body[0].end_lineno if own else node.body[0].lineno - 1
    assert start is not None and node.end_lineno is not None
    if node.body[0].lineno == node.lineno:
        raise HoleError(
            f"{where}: the body of {name} stands on the line of its def; break the line"
        )
    while not own and lines[start - 1].strip().startswith("#"):
        start -= 1  # a comment before the first statement belongs to the body
    indent = " " * (node.col_offset + 4)
    new = [f"{indent}raise NotImplementedError(", f'{indent}    "{message}"', f"{indent})"]
    # 2. The docstring that the student reads.
    head = lines[:start]
    if docstring:
        head = lines[: node.body[0].lineno - 1] if own else head
        text = docstring.strip().splitlines()
        quoted = [f'"""{text[0]}', *text[1:]]
        closed = [f'{quoted[0]}"""'] if len(text) == 1 else [*quoted, '"""']
        head = head + [f"{indent}{line}".rstrip() for line in closed]
    return "\n".join([*head, *new, *lines[node.end_lineno :]]) + "\n"


# ---------------------------------------------------------------- putting other code in


def _bound_names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module binds."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return set()


def _used_names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _text(source: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


@dataclass(frozen=True)
class Answer:
    """One function of a submission, with what it needs.

    Attributes:
        code: Its source.
        extras: Sources of the imports, constants, helper functions and classes of the same file
            that it uses and that the package does not have, in the order of the file.
        blank: Nothing was written.
    """

    code: str
    extras: tuple[str, ...]
    blank: bool


def find_answer(submitted: str, package: str, name: str, where: str) -> Answer:
    """A function of a submitted file, with those of its own helpers that it uses.

    Args:
        submitted: The submitted source.
        package: The source of the same file in the package.
        name: "function", or "Class.method".
        where: What the submitted source is called in errors.

    Returns:
        The answer. Changes to anything else of the file are left out.

    Raises:
        HoleError: The submitted source does not define the function exactly once.
        SyntaxError: The submitted source is not Python.
    """
    node = find_function(submitted, name, where)
    known = set().union(*(_bound_names(n) for n in ast.parse(package).body), dir(builtins))
    added = [(names, n) for n in ast.parse(submitted).body if (names := _bound_names(n) - known)]
    needed, todo = set(), _used_names(node) - known
    while todo:
        needed |= todo
        used = (_used_names(n) for names, n in added if names & todo)
        todo = set().union(*used) - needed - known
    extras = tuple(_text(submitted, n) for names, n in added if names & needed)
    return Answer(function_source(submitted, name, where), extras, is_hole(node))


def put_in(package: str, name: str, answer: Answer, where: str = "the package") -> str:
    """The source of a file of the package with a function replaced by a submitted one.

    Args:
        package: The source of the file.
        name: "function", or "Class.method".
        answer: What to put in its place; its extras go before the function, or before its class.
        where: What the source is called in errors.

    Returns:
        The new source.
    """
    lines = package.splitlines()
    first, last = function_lines(package, name, where)
    lines[first:last] = answer.code.splitlines()
    if answer.extras:
        top = name.split(".")[0]
        node = next(
            n
            for n in ast.parse(package).body
            if isinstance(n, FunctionNode | ast.ClassDef) and n.name == top
        )
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        lines[start:start] = [*"\n".join(answer.extras).splitlines(), ""]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- copies of a solution


def normalised(node: ast.AST) -> str:
    """A syntax tree as text in which the names of variables do not matter.

    Variables are numbered in the order in which they appear. Functions that are called, attributes,
    constants, keywords and operators stay.
    """
    numbers: dict[str, int] = {}

    def visit(n: object) -> str:
        if isinstance(n, ast.Name):
            return f"v{numbers.setdefault(n.id, len(numbers))}"
        if isinstance(n, list):
            return "[" + ",".join(map(visit, n)) + "]"
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name):
            return f"{n.func.id}({visit(n.args)},{visit(n.keywords)})"
        if isinstance(n, ast.AST):
            fields = (visit(v) for k, v in ast.iter_fields(n) if k not in ("ctx", "type_comment"))
            return f"{type(n).__name__}({','.join(fields)})"
        return repr(n)

    return visit(node)


def expressions(node: ast.AST, sizes: Collection[int]) -> Iterator[ast.expr]:
    """All expressions in a tree that have one of these numbers of nodes."""
    found: list[ast.expr] = []

    def count(n: ast.AST) -> int:
        size = 1 + sum(map(count, ast.iter_child_nodes(n)))
        if isinstance(n, ast.expr) and size in sizes:
            found.append(n)
        return size

    count(node)
    yield from found


def tree_size(node: ast.AST) -> int:
    """The number of nodes of a tree."""
    return sum(1 for _ in ast.walk(node))
