"""The source of a user's encoder, which is part of its fingerprint: changed code is another encoder."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxdissect.encoder.user_code import is_library_file


def source_fingerprint(modules: Iterable[str]) -> str:
    """SHA-256 of the code of modules, and of all modules of the user's that they import.

    Comments and layout do not count. Code of installed packages does not either.

    Args:
      modules: names of imported modules.
    """
    trees: dict[str, ast.Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in trees or not file or is_library_file(file) or not Path(file).is_file():
            continue
        trees[name] = ast.parse(Path(file).read_bytes())
        waiting += _imported(trees[name], sys.modules[name].__package__ or "")
    # In the order of their contents, for folders may be moved and files renamed.
    return hashlib.sha256("\n".join(sorted(map(ast.dump, trees.values()))).encode()).hexdigest()


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Names of the modules that code imports; those of objects in modules are among them, and are no modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package) if node.level else relative
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
