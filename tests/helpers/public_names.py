"""The public names as their sources have them: what they take, what they raise, what their docstrings say."""

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "jaxdissect"
ERRORS = ("InputError", "LostProcessError", "TrainingError")


def parsed(path):
    return ast.parse(path.read_text())


TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): parsed(path)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
OWN = {
    module: {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for module, tree in TREES.items()
}
IMPORTED = {
    module: {
        alias.asname or alias.name: (node.module.removeprefix("jaxdissect."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdissect.")
        for alias in node.names
    }
    for module, tree in TREES.items()
}


@dataclass(frozen=True)
class Part:
    """A function, a class, or a method (then `owner` is its class)."""

    module: str
    node: ast.FunctionDef | ast.ClassDef
    owner: "Part | None" = None

    @property
    def name(self):
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def doc(self):
        return ast.get_docstring(self.node) or ""

    @cached_property
    def sections(self):
        """Of a docstring in Google's convention, what it says of each name; "bands, frames: ..." is of both."""
        found = {"Args": {}, "Attributes": {}, "Raises": {}}
        section, names = None, []
        for line in self.doc.splitlines():
            if re.fullmatch(r"\w+:", line):
                section, names = found.get(line[:-1]), []
            elif entry := re.match(r"  ((?:\w+)(?:, \w+)*): (.*)", line):
                names, text = entry[1].split(", "), entry[2]
                if section is not None:
                    section.update(dict.fromkeys(names, text))
            elif section is not None:
                section.update({name: f"{section[name]} {line.strip()}" for name in names})
        return found

    @property
    def parameters(self):
        arguments = self.node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        return [one for one in every if one is not None and one.arg not in ("self", "cls")]

    @property
    def fields(self):
        found = [statement for statement in self.node.body if isinstance(statement, ast.AnnAssign)]
        return [one for one in found if not one.target.id.startswith("_")]

    @property
    def methods(self):
        found = [Part(self.module, one, self) for one in self.node.body if isinstance(one, ast.FunctionDef)]
        return {one.node.name: one for one in found}

    @property
    def is_property(self):
        return any(ast.unparse(decorator) == "property" for decorator in self.node.decorator_list)

    def find(self, name):
        """The function or class that a name stands for in this module; None for what is not ours."""
        module, name = IMPORTED[self.module].get(name, (self.module, name))
        node = OWN.get(module, {}).get(name)
        return node and Part(module, node)

    def method(self, name):
        """A method of a class, perhaps of one that it is built on."""
        bases = [found for base in self.node.bases if isinstance(base, ast.Name) and (found := self.find(base.id))]
        return self.methods.get(name) or next((found for base in bases if (found := base.method(name))), None)

    def errors(self, seen=frozenset()):
        """Errors that the function, or what it calls by name, raises and does not catch."""
        if self in seen:
            return set()
        found, seen = set(), seen | {self}
        for node in uncaught(self.node):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                found |= {self.raised(node.exc)} - {None}
            elif isinstance(node, ast.Call) and (called := self.called(node.func)):
                found |= called.errors(seen)
        return found

    def raised(self, call):
        """Name of one of our errors, made at the place or by a function of ours."""
        name = ast.unparse(call.func)
        maker = self.find(name)
        made = ast.unparse(maker.node.returns) if maker and getattr(maker.node, "returns", None) else name
        return made if made in ERRORS else None

    def called(self, function):
        """What of ours runs on a call: a function, a method of the same object, or what checks a new object."""
        if isinstance(function, ast.Name) and (found := self.find(function.id)):
            return found.method("__post_init__") if isinstance(found.node, ast.ClassDef) else found
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self" and self.owner:
            return self.owner.method(function.attr)
        return None


def uncaught(node):
    """A node and all below it, but for what stands where InputError is caught."""
    yield node
    below = ast.iter_child_nodes(node)
    if isinstance(node, ast.Try) and any("InputError" in ast.unparse(one.type) for one in node.handlers if one.type):
        below = [*node.handlers, *node.orelse, *node.finalbody]
    for child in below:
        yield from uncaught(child)


MODULE_OF = {  # by the list of public names
    alias.name: node.module
    for node in parsed(PACKAGE / "__init__.pyi").body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
PUBLIC = [Part(module, OWN[module][name]) for name, module in MODULE_OF.items()]
CLASSES = [part for part in PUBLIC if isinstance(part.node, ast.ClassDef)]
FUNCTIONS = [part for part in PUBLIC if isinstance(part.node, ast.FunctionDef)]
FUNCTIONS += [one for part in CLASSES for name, one in part.methods.items() if re.match("__call__|[a-z]", name)]
