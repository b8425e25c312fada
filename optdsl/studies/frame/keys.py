"""The key of a run: a hash of its content.

It is made of the run's fields, of the version of optdsl, of the code of the modules that carry it
out, and of what else a run names, such as the programs of its rules.  Code counts without its
docstrings, comments and layout.  The version of PyTorch, the machine and the backend do not count:
they change results by rounding only, and results of several machines are to be merged.  They are
noted with every result.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import optdsl

LENGTH = 24  # hexadecimal digits of a key


def key_of(fields: Mapping[str, object], modules: Sequence[str], ingredients: Sequence[str]) -> str:
    """Returns the key of a run.

    Args:
        fields: Its fields, as JSON has them.
        modules: The names of the modules whose code decides the result.
        ingredients: Other texts that decide it.
    """
    content = {
        "fields": fields,
        "version": optdsl.__version__,
        "code": {name: code_digest(name) for name in sorted(set(modules))},
        "ingredients": list(ingredients),
    }
    return digest(json.dumps(content, sort_keys=True))[:LENGTH]


def digest(content: str | bytes) -> str:
    """Returns the hash of a text or of bytes, in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@cache
def code_digest(module: str) -> str:
    """Returns the hash of a module's code, or of all modules of a package.

    Raises:
        ModuleNotFoundError: There is no such module with a source file.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"the source of the module {module} is not installed")
    origin = Path(found.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return digest("\n".join(_bare(file.read_text(encoding="utf-8")) for file in files))


def _bare(source: str) -> str:
    """Returns code without docstrings, comments and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def circumstances() -> dict[str, str]:
    """Returns what is noted with a result and is not part of its key."""
    return {
        "optdsl": optdsl.__version__,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {socket.gethostname()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as there are processors"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
