"""What an archive for students must not hold: solutions, or copies of them."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator

from imagen_mini.course.assignment import Assignment, load_variants, reference_code
from imagen_mini.course.holes import (
    FunctionNode,
    HoleError,
    body_statements,
    expressions,
    find_function,
    is_hole,
    normalised,
    tree_size,
)

LINE = 16  # characters without spaces from which a line of a solution gives something away
NODES, OTHER_NODES = 8, 14  # of the syntax tree from which an expression does; in other forms
SHORT = 24  # an expression of fewer nodes is common: (a - b * c) / d has 14
OPENING = re.compile(r"(\w+=)?[\w.]+\(")  # the name of a call without its arguments tells nothing
TEXTS = (".py", ".md", ".toml", ".json", ".txt", ".tsv", ".ipynb", ".cfg", ".template", ".sh")
FORBIDDEN = re.compile(r"(^|/)(\.git|__pycache__|\.ipynb_checkpoints|outputs|runs|course)(/|$)")


def _only(code: str) -> FunctionNode:
    (node,) = ast.parse(code).body
    assert isinstance(node, FunctionNode)
    return node


def solution_lines(code: str) -> set[str]:
    """The lines of a function's body without spaces, comments and `return`, if long enough."""
    code = textwrap.dedent(code)
    first = body_statements(_only(code))[0].lineno
    kept: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.start[0] >= first and token.type != tokenize.COMMENT:
            kept[token.start[0]] = kept.get(token.start[0], "") + token.string.strip()
    lines = {line.removeprefix("return") for line in kept.values()}
    return {
        line
        for line in lines
        if len(line) >= LINE
        and not line.startswith(("raise", '"', "f"))
        and not OPENING.fullmatch(line)
    }


def solution_expressions(code: str, smallest: int = NODES) -> dict[str, int]:
    """The values that a function's body computes, as normalised syntax trees with their sizes."""
    found = {}
    for statement in body_statements(_only(textwrap.dedent(code))):
        for part in ast.walk(statement):
            value = getattr(part, "value", None)
            if isinstance(part, ast.Assign | ast.Return) and isinstance(value, ast.expr):
                values = value.elts if isinstance(value, ast.Tuple) else [value]
                for v in values:
                    if (size := tree_size(v)) >= smallest:
                        found[normalised(v)] = size
    return found


def _squeezed(text: str) -> str:
    return "".join(text.split())


def find_leaks(assignment: Assignment, files: dict[str, bytes]) -> Iterator[str]:
    """Everything of a solution that is in an archive for students, in words.

    A line of a solution is looked for in every text without its spaces. A value that a solution
    computes is looked for in every Python file, whatever the variables are called there. A short
    one, such as (a - b * c) / d, is common, and counts only in files that speak of an argument of
    the function.

    Args:
        assignment: Whose solutions.
        files: The archive: bytes by path.
    """
    for path in files:
        if FORBIDDEN.search(path) or path.endswith((".pyc", ".ipynb")):
            yield f"{path} must not be there"
    texts = {p: b.decode("utf-8") for p, b in files.items() if p.endswith(TEXTS)}
    # 1. The functions of the questions are holes.
    sources = {p.partition("/")[2]: text for p, text in texts.items()}
    for question in assignment.questions:
        try:
            if not is_hole(find_function(sources[question.file], question.function)):
                yield f"{question.file} still has the body of {question.function}"
        except (KeyError, HoleError):
            yield f"{question.file} has no function {question.function}"
    # 2. Lines of solutions, and of correct other forms.
    shared = {_squeezed(line) for line in assignment.shared}
    codes = [(q.name, reference_code(q), NODES) for q in assignment.questions]
    forms = load_variants(assignment, "forms")
    codes += [(form.question, form.code, OTHER_NODES) for form in forms]
    squeezed = {p: _squeezed(text) for p, text in texts.items()}
    for name, code, _ in codes:
        for line in sorted(solution_lines(code) - shared):
            for path, text in squeezed.items():
                if line in text:
                    yield f"{path} has a line of the solution of {name}: {line}"
    # 3. Values that solutions compute.
    wanted: dict[str, tuple[str, set[str]]] = {}
    sizes: set[int] = set()
    for name, code, smallest in codes:
        arguments = {a.arg for a in _only(textwrap.dedent(code)).args.args} - {"self"}
        for expression, size in solution_expressions(code, smallest).items():
            wanted.setdefault(expression, (name, arguments if size < SHORT else set()))
            sizes.add(size)
    for line in assignment.shared:
        whole = line.strip() + (" pass" if line.strip().endswith(":") else "")
        for given in expressions(ast.parse(whole), sizes):
            wanted.pop(normalised(given), None)
    for path, text in texts.items():
        if path.endswith(".py"):
            tree = ast.parse(text)
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            for part in expressions(tree, sizes):
                name, arguments = wanted.get(normalised(part), ("", set()))
                if name and (not arguments or arguments & names):
                    where = f"{path}, line {part.lineno}"
                    yield f"{where} computes what {name} does: {ast.unparse(part)}"
