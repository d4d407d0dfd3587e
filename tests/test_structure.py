"""The shape of the code: what each folder may import, and how long files and functions may be."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import ROOT

FLOORS = (  # a room imports itself and lower floors, never its neighbours
    ("utils/system",),
    ("models", "data", "utils/optim"),
    ("utils/eval", "utils/run"),
    ("utils/vis",),
    ("utils/options",),
)
COMMANDS = (
    "train.py",
    "test.py",
    "utils/compare.py",
    "utils/replay.py",
    "utils/export.py",
    "utils/visdom_assets.py",
    "data/check.py",
)  # import anything
NOT_YET: set[tuple[str, str]] = set()
PRODUCT = sorted(
    [
        ROOT / "train.py",
        ROOT / "test.py",
        *(p for d in ("models", "data", "utils") for p in (ROOT / d).rglob("*.py")),
    ]
)


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(module: str) -> str | None:
    """The room of a dotted module name or a path; None for commands and foreign modules."""
    path = module.replace(".", "/") if not module.endswith(".py") else module
    if path in COMMANDS or f"{path}.py" in COMMANDS:
        return None
    return next((room for rooms in FLOORS for room in rooms if f"{path}/".startswith(f"{room}/")), None)


def imported(path: Path) -> Iterator[str]:
    """Dotted names of every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: Path) -> set[tuple[str, str]]:
    """(file, room or command) of every import that the rule forbids."""
    name = path.relative_to(ROOT).as_posix()
    room = room_of(name)
    if room is None:
        return set()
    found = set()
    for module in imported(path):
        other = room_of(module)
        command = next((c for c in COMMANDS if c == f"{module.replace('.', '/')}.py"), None)
        if command or (other and other != room and floor_of(other) >= floor_of(room)):
            found.add((name, command or str(other)))
    return found


def test_each_folder_imports_only_itself_and_lower_floors() -> None:
    found = {each for path in PRODUCT for each in violations(path)}
    assert found - NOT_YET == set()
    assert NOT_YET - found == set(), "fixed: take it off the list"


@pytest.mark.parametrize(
    ("name", "module", "wrong"),
    [
        ("data/layouts.py", "models.layers", True),
        ("data/layouts.py", "utils.eval.metrics", True),
        ("utils/eval/results.py", "utils.run.run", True),
        ("utils/system/errors.py", "data.images", True),
        ("utils/vis/grids.py", "train", True),
        ("data/layouts.py", "data.check", True),
        ("utils/vis/grids.py", "data.images", False),
        ("utils/options/flags.py", "utils.run.run", False),
        ("data/check.py", "utils.eval.metrics", False),
        ("data/layouts.py", "numpy", False),
    ],
)
def test_the_rule_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, wrong: bool
) -> None:
    monkeypatch.setattr("tests.test_structure.ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(f"def f():\n    import {module}\n")
    assert bool(violations(path)) == wrong


# ---------------------------------------------------------------------------------------------------- budgets

MAX_LINES = {"train.py": 280, "test.py": 200}
MAX_FILE, MAX_MAIN, MAX_FUNCTION, MEDIAN = 400, 120, 60, 8
TOO_LONG_YET: set[str] = set()


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines) of every function of a file, methods included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno
            found.append((node.name, node.end_lineno - node.lineno + 1))
    return found


def test_files_and_functions_stay_short() -> None:
    too_long = set()
    for path in PRODUCT:
        name = path.relative_to(ROOT).as_posix()
        if len(path.read_text().splitlines()) > MAX_LINES.get(name, MAX_FILE):
            too_long.add(name)
        limit = MAX_MAIN if name in MAX_LINES else MAX_FUNCTION
        too_long |= {f"{name}:{function}" for function, lines in functions(path) if lines > limit}
    assert too_long - TOO_LONG_YET == set()
    assert TOO_LONG_YET - too_long == set(), "fixed: take it off the list"
    assert statistics.median(lines for path in PRODUCT for _, lines in functions(path)) <= MEDIAN
