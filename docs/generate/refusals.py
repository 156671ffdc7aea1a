"""The table at the end of docs/failure-modes.md: every refusal in the source, read from its syntax tree.

A refusal is a call of a class of the error tree, with the text of its `code` or the class's own; or of `problem(...)`.
A code or message in a local variable is looked up in the function around, a parameter at the function's calls.
"""

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moorage_common import errors
from moorage_common.contracts import host_calls

CONSTANTS = {name: value for name, value in vars(host_calls).items() if isinstance(value, str)}
CLASSES = {
    name: (found.status, found.default_code)
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, errors.MoorageError)
}
"""Status and own code of each class of the tree."""

PAGE = "docs/failure-modes.md"
MARK = "<!-- The rest is generated from the source: make docs -->"
NAMES = {"common": "every service", "runtime": "host"}
COLUMNS = "| code | status | from | text |\n|---|---|---|---|\n"


@dataclass
class Refusal:
    statuses: set[int] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


def page(root: Path) -> str:
    """The written part of the page as it is, and the table anew."""
    written, _mark, _old = (root / PAGE).read_text(encoding="utf-8").partition(MARK)
    rows = []
    for code, refusal in sorted(collect(root).items()):
        statuses = ", ".join(str(status) for status in sorted(refusal.statuses))
        where = ", ".join(sorted(refusal.packages))
        texts = "<br>".join(dict.fromkeys(text.replace("|", "\\|") for text in refusal.texts if text)) or "(varies)"
        rows.append(f"| `{code}` | {statuses} | {where} | {texts} |")
    return f"{written}{MARK}\n\n{COLUMNS}" + "\n".join(rows) + "\n"


def collect(root: Path) -> dict[str, Refusal]:
    """Refusals by code."""
    found: dict[str, Refusal] = defaultdict(Refusal)
    for path in sorted([*root.glob("libs/*/src/**/*.py"), *root.glob("services/*/src/**/*.py")]):
        package = path.relative_to(root).parts[1]
        if package == "sdk" or "testing" in path.parts:
            continue
        for status, code, text in _refusals(Module(ast.parse(path.read_text(encoding="utf-8")))):
            found[code].statuses.add(status)
            found[code].packages.add(NAMES.get(package, package))
            found[code].texts.append(text)
    return dict(found)


class Module:
    """A syntax tree that knows the function around each node."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self._around: dict[ast.AST, ast.AST] = {}
        self._mark(tree, tree)

    def _mark(self, node: ast.AST, around: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self._around[child] = around
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            self._mark(child, child if inner else around)

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def texts(self, node: ast.expr, at: ast.AST, *, nearest: bool = False) -> list[str]:
        """What a string expression may be; `{...}` for what is filled in.

        Args:
            nearest: of several assignments to a variable, the last one before `at` alone.
        """
        match node:
            case ast.Constant():
                found = [str(node.value)]
            case ast.JoinedStr():
                found = ["".join(str(p.value) if isinstance(p, ast.Constant) else "{...}" for p in node.values)]
            case ast.IfExp():
                found = [*self.texts(node.body, at), *self.texts(node.orelse, at)]
            case ast.BinOp():
                found = [left + right for left in self.texts(node.left, at) for right in self.texts(node.right, at)]
            case ast.Attribute() if node.attr in CONSTANTS:
                found = [CONSTANTS[node.attr]]
            case ast.Name():
                found = self._of_name(node, at, nearest=nearest)
            case _:
                found = []
        return found

    def _of_name(self, name: ast.Name, at: ast.AST, *, nearest: bool) -> list[str]:
        function = self._around[at]
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            return []
        assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
        found = [(node, value) for node in assigned for value in _assigned(node, name.id)]
        if nearest:
            before = [(node, value) for node, value in found if node.lineno <= name.lineno]
            found = sorted(before, key=lambda pair: pair[0].lineno)[-1:]
        texts = [text for node, value in found for text in self.texts(value, node)]
        return texts or self._of_parameter(name.id, function)

    def _of_parameter(self, name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
        parameters = [argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]]
        if name not in parameters:
            return []
        found: list[str] = []
        for call in self.calls():
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if called == function.name:
                place = parameters.index(name) - (1 if parameters[0] == "self" else 0)
                given = [keyword.value for keyword in call.keywords if keyword.arg == name]
                given += call.args[place : place + 1]
                for value in given:
                    found += self.texts(value, call)
        return found


def _assigned(node: ast.Assign, name: str) -> Iterator[ast.expr]:
    """Values that an assignment gives to `name`, in a tuple or alone."""
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id == name:
            yield node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for part, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(part, ast.Name) and part.id == name:
                    yield value


def _refusals(module: Module) -> Iterator[tuple[int, str, str]]:
    classes = CLASSES | dict(_own_classes(module.tree))
    for call in module.calls():
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if name in classes:
            yield from _of_class(module, call, *classes[name])
        elif name == "problem" and isinstance(call.args[0], ast.Constant):
            texts = module.texts(call.args[2], call)
            for code in module.texts(call.args[1], call):
                yield int(str(call.args[0].value)), code, " ".join(texts)


def _own_classes(tree: ast.Module) -> Iterator[tuple[str, tuple[int, str]]]:
    """Classes that a module adds to the tree, with their `status` and `default_code`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            parents = [CLASSES[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in CLASSES]
            assigned = [part for part in node.body if isinstance(part, ast.Assign)]
            values = {
                target.id: part.value.value
                for part in assigned
                for target in part.targets
                if isinstance(target, ast.Name) and isinstance(part.value, ast.Constant)
            }
            for status, code in parents:
                yield node.name, (int(str(values.get("status", status))), str(values.get("default_code", code)))


def _of_class(module: Module, call: ast.Call, status: int, own_code: str) -> Iterator[tuple[int, str, str]]:
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)
    codes = [own_code] if given is None else module.texts(given, call)
    texts = module.texts(call.args[0], call, nearest=True) if call.args else []
    for code in codes:
        for text in texts or [""]:
            yield status, code, text
