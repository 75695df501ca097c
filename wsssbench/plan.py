"""Which code can change a stage's result: the files that its module imports, followed to the end.

DVC compares files, so a stage that depended on the whole package would run again after any edit.
The hash made here covers exactly the code behind one method, without comments and docstrings, and
the stages depend on it; the checkpoint's fingerprint holds it too.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

import wsssbench

PACKAGE = Path(wsssbench.__file__).parent
# Tables of names and plumbing: they choose, read, write and report, but change no number.
PLUMBING = """errors files parallel params plan progress provenance schema settings __init__
    data/__init__ methods/__init__ mixing/__init__ engine/watch
    stages/plan"""
NEUTRAL = {f"{name}.py" for name in PLUMBING.split()}


def code_files(roots: Iterable[str]) -> list[Path]:
    """Files of the package that `roots` (paths below it) import directly or indirectly, sorted."""
    todo = [PACKAGE / root for root in roots]
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in found or str(path.relative_to(PACKAGE)) in NEUTRAL:
            continue
        found.add(path)
        todo += [file for name in imported(path) for file in _files_of(name)]
    return sorted(found)


def code_hash(roots: Iterable[str]) -> str:
    """Hash of the code (no comments, no docstrings) of `code_files(roots)`, 16 hex digits."""
    digest = hashlib.sha256()
    for path in code_files(roots):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0")
        digest.update(_bare(path).encode())
    return digest.hexdigest()[:16]


def roots_of(stage: str, method_code: Iterable[str]) -> list[str]:
    """The files from which the code of `stage` is followed, given those of a method."""
    return [f"stages/{stage}.py", *method_code]


def imported(path: Path) -> list[str]:
    """Modules and names of this package that a file imports, dotted."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("wsssbench.")]


def _files_of(name: str) -> list[Path]:
    base = PACKAGE.parent.joinpath(*name.split("."))
    return [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]


def _bare(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return ast.unparse(tree)
