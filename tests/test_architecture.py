"""The imports follow the floors that docs/architecture.md draws, and go in no circle."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOP = ("jaxpure", "experiments", "checkpoints_convert")


def floors() -> list[list[str]]:
    text = (ROOT / "docs/architecture.md").read_text()
    (block,) = re.findall(r"<!-- floors -->\n```\n(.*?)```", text, re.S)
    return [
        [word for word in line.split() if word.split(".")[0] in TOP]
        for line in block.splitlines()
    ]


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for top in TOP:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts)] = path
    return found


def imported(name: str, path: pathlib.Path, known: set[str]) -> set[str]:
    """Modules of the project that a file imports when it is imported."""
    tree, found = ast.parse(path.read_text()), set()
    for node in at_import(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return {module for module in found if module in known and module != name}


def at_import(tree: ast.AST):
    """Nodes that run on import: not the insides of functions, nor of TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from at_import(node)


MODULES = modules()
GRAPH = {name: imported(name, path, set(MODULES)) for name, path in MODULES.items()}
LEVEL = {room: level for level, rooms in enumerate(floors()) for room in rooms}


def level(module: str) -> int | None:
    """The floor of a module's room; None for the package's own door."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        room = ".".join(parts[:length])
        if room in LEVEL:
            return LEVEL[room]
    return None


def test_every_module_has_a_floor():
    homeless = [name for name in MODULES if level(name) is None and name != "jaxpure"]
    assert homeless == []


def test_every_room_of_the_list_exists():
    assert [room for room in LEVEL if room not in MODULES] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_up_only(module):
    if module == "jaxpure":
        return
    here = level(module)
    below = sorted(m for m in GRAPH[module] if m != "jaxpure" and level(m) > here)
    assert below == [], f"{module} imports {below} from a lower floor"


def test_no_imports_go_in_a_circle():
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module in done:
            return
        path.append(module)
        for other in sorted(GRAPH[module]):
            if other != "jaxpure":
                visit(other)
        path.pop()
        done.add(module)

    for module in sorted(GRAPH):
        visit(module)


def test_the_library_knows_nothing_of_programs():
    for name, path in MODULES.items():
        if name.startswith("jaxpure"):
            text = path.read_text()
            assert not re.search(
                r"^\s*(from|import) (experiments|checkpoints_convert)", text, re.M
            )
