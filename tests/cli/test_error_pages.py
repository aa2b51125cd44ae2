"""docs/errors.md has every code that the sources raise, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from app.client import errors as client_errors
from app.domain import errors as domain_errors

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z]+(_[a-z]+)+")
ERRORS = {
    name
    for module in (client_errors, domain_errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Exception)
}


def sources() -> Iterator[Path]:
    for package in ("app", "workers"):
        yield from sorted((ROOT / package).rglob("*.py"))


def raised_in(tree: ast.Module) -> Iterator[str]:
    """Yield the codes of errors that are made, of ``{"code": ...}`` that are stored, and of checks' warnings."""
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield from constants(value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warn":
            yield from constants(node.args[0])
    for scope in [tree, *scopes]:
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and makes_an_error(node, tree):
                code = node.args[1] if called(node) == "ApiError" else node.args[0]
                yield from constants(code)
                if isinstance(code, ast.Name) and scope is not tree:
                    yield from values_of(code.id, scope, tree)


def makes_an_error(call: ast.Call, tree: ast.Module) -> bool:
    if called(call) in ERRORS:
        return True
    is_super = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call)
    inside_error_classes = any(isinstance(node, ast.ClassDef) and node.name in ERRORS for node in tree.body)
    return bool(is_super and inside_error_classes and called(call.func.value) == "super" and call.args)


def called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def values_of(name: str, scope: ast.AST, tree: ast.Module) -> Iterator[str]:
    """Yield the codes that a variable may hold: assigned to it, or passed as this argument."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            yield from constants(node.value)
    places = [argument.arg for argument in scope.args.args]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) == scope.name and name in places:
            yield from constants(node.args[places.index(name)])


def constants(expression: ast.expr) -> Iterator[str]:
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            yield node.value


def documented() -> list[str]:
    return re.findall(r'^\| <a id="(\w+)"></a>`\1` \|', (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)


def test_every_code_is_documented_once_and_every_documented_code_is_raised() -> None:
    raised = {code for path in sources() for code in raised_in(ast.parse(path.read_text()))}
    pages = documented()
    assert len(pages) > 70
    assert sorted(pages) == sorted(raised)


def test_every_reason_and_warning_of_a_file_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    told = set()
    for path in sorted((ROOT / "app" / "ingest").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and called(node) in ("Outcome", "ImageRefused"):
                told |= {code for argument in node.args[1:3] for code in constants(argument)}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add":
                told |= set(constants(node.args[0]))
    assert len(told) > 20
    assert {code for code in told if f"`{code}`" not in page} == set()
