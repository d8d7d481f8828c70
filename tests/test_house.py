"""The house as docs/architecture.md draws it: read from the source, nothing is imported."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "safezone"
MOST_LINES = 320


def module_name(path: Path) -> str:
    """``safezone.lab.store`` for src/safezone/lab/store.py; a package for its ``__init__``."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Modules of the package that one names, and the line: wherever it does, annotations too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in TREES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: write the whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in TREES:
                    yield inner, node.lineno
                elif node.module in TREES:
                    yield str(node.module), node.lineno


GRAPH = {module: dict(imports(module)) for module in TREES}


def rooms() -> list[str]:
    """The first column of the table of rooms, from top to bottom: folders and single modules."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| room |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`([\w/]+?)(?:\.py|/)`", cell)]


ROOMS = rooms()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_the_rooms_of_the_document_are_those_of_the_source() -> None:
    assert len(set(ROOMS)) == len(ROOMS)
    assert set(ROOMS) == {room(module) for module in TREES}


@pytest.mark.parametrize("module", TREES)
def test_no_import_runs_upwards(module: str) -> None:
    """Into a room that stands below, or one's own."""
    upwards = {
        f"line {line}: {target}"
        for target, line in GRAPH[module].items()
        if target != "safezone" and ROOMS.index(room(target)) < ROOMS.index(room(module))
    }
    assert not upwards


def test_modules_form_no_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", TREES)
def test_a_module_is_of_a_size_that_can_be_read(module: str) -> None:
    path = SOURCE.parent / (module.replace(".", "/") + ".py")
    lines = (path if path.exists() else path.with_suffix("") / "__init__.py").read_text()
    assert lines.count("\n") <= MOST_LINES


BOTTOM = {"fcntl": "locks", "tempfile": "temporary files", "filelock": "locks"}


@pytest.mark.parametrize("module", TREES)
def test_only_files_renames_locks_and_makes_temporary_files(module: str) -> None:
    if module == "safezone.files":
        return
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            assert not names & BOTTOM.keys(), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            assert called not in ("os.replace", "os.rename"), f"line {node.lineno}"


OF_EVERY_COMMAND = {"VERBS", "main"}
"""Names that mean one thing in many modules."""


def test_a_public_name_means_one_thing() -> None:
    """No class, function or constant is defined under one name in two modules."""
    places: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                continue
            for name in names:
                if not name.startswith("_") and name not in OF_EVERY_COMMAND:
                    places.setdefault(name, []).append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
