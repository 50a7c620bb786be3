"""Rules of the house that can be read off the source: who imports whom, sizes, plain characters, no print."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
PACK = sorted(
    [*(ROOT / "esd").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py", ROOT / "version.py"]
)
SOURCES = sorted(
    path for path in ROOT.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
HOST_MODULES = {
    "comfy",
    "comfy_extras",
    "comfy_execution",
    "comfy_config",
    "folder_paths",
    "server",
    "latent_preview",
    "execution",
    "nodes",
    "node_helpers",
    "app",
    "utils",
    "api_server",
    "main",
}
COMMANDS = sorted((ROOT / "commands").rglob("*.py"))
STARTERS = {"subprocess", "multiprocessing", "ctypes", "pty", "webbrowser"}
"""Modules that start programs; the registry asks for none of them."""

IN_BATCHES = {"yaml", "fsspec", "rich", "ray"}
"""What the host brings too, and what a batch does without where it is missing."""

METHOD_TESTS = [path for room in ("method", "formats") for path in sorted((ROOT / "tests" / room).glob("*.py"))]
"""The tests of esd/, which run where there is no host."""

FIXTURES = {"comfy", "comfy_path", "comfy_base", "node_classes", "playground", "host", "page", "object_info"}
TORCH_AND_FRIENDS = {"torch", "einops", "safetensors"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The first part of every absolute import, and the rest of every relative one with its dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if not node.level else node.module or "", node.level


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            doc = (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            )
            yield node.name, node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if doc else 0)


def test_there_is_something_to_look_at():
    assert len(PACK) > 20 and len(SOURCES) > len(PACK)


@pytest.mark.parametrize("path", sorted((ROOT / "esd").rglob("*.py")), ids=name_of)
def test_the_method_knows_no_host(path):
    folder = path.relative_to(ROOT).parent
    for module, level in imports(path):
        if level:
            assert level <= len(folder.parts), f"{name_of(path)} reaches out of esd/ for {module}"
        else:
            assert module in TORCH_AND_FRIENDS | set(sys.stdlib_module_names), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize(
    "path", [p for p in PACK if "host" not in p.parts and "esd" not in p.relative_to(ROOT).parts], ids=name_of
)
def test_only_nodes_host_imports_the_host(path):
    assert not {module for module, level in imports(path) if not level} & HOST_MODULES


@pytest.mark.parametrize("path", METHOD_TESTS, ids=name_of)
def test_the_method_is_tested_without_the_host(path):
    tree = ast.parse(path.read_text("utf-8"))
    asked = {a.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for a in node.args.args}
    whole = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {module for module, _ in imports(path)} & HOST_MODULES and not asked & FIXTURES
    assert not [module for module in whole if module.startswith("esd_pack.nodes")]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_no_test_file_imports_the_host_before_a_fixture_has_made_it_ready(path):
    """Only inside functions: the top of a file is run where there is no host, and before its folders are set."""
    top = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [a.name for node in top if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    assert not {name.partition(".")[0] for name in names} & HOST_MODULES
    assert not [name for name in names if name.startswith("esd_pack.nodes")]


HOST = "nodes/host"
METHOD = {"esd/errors", "esd/files", "esd", "esd/students", "esd/formats", "esd/evaluate"}
ROOMS: dict[str, set[str]] = {
    "esd/errors": set(),
    "esd/files": {"esd/errors"},
    "esd": {"esd/errors", "esd/files"},
    "esd/students": {"esd/errors", "esd"},
    "esd/formats": {"esd/errors", "esd/files", "esd"},
    "esd/evaluate": {"esd/errors", "esd"},
    "nodes/ui": set(),
    HOST: METHOD,
    f"{HOST}/families": METHOD | {HOST},
    f"{HOST}/model": METHOD | {HOST, f"{HOST}/families"},
    f"{HOST}/files": METHOD | {HOST, f"{HOST}/families", f"{HOST}/model", "."},
    f"{HOST}/images": METHOD | {HOST, f"{HOST}/families", f"{HOST}/model"},
    f"{HOST}/run": METHOD | {HOST, f"{HOST}/families", f"{HOST}/model", f"{HOST}/files"},
    "nodes": METHOD
    | {"nodes/ui", *(f"{HOST}{each}" for each in ("", "/families", "/model", "/files", "/images", "/run"))},
    "commands/playground": set(),
    "commands": METHOD | {"commands/playground", "nodes", f"{HOST}/files", f"{HOST}/run", "."},
    "commands/batch": METHOD | {"commands", "commands/playground"},
    "lab": set(),
    "lab/reference": set(),
    "lab/playground/recipe": {"lab", "commands/playground"},
    "lab/launch": {"lab", "lab/playground/recipe", "commands", "commands/batch", "commands/playground", "nodes"},
    "lab/pictures": {"lab", "lab/launch"},
}
ROOMS["lab/bench"] = {*ROOMS, "."}
"""Which room may import which: each only rooms that stand before it.  The root (".") has the version."""


def room(path: Path) -> str:
    """The folder of a file; the errors, which all of esd/ raises, are a room of their own."""
    name = name_of(path)
    return "esd/errors" if name == "esd/errors.py" else name.rpartition("/")[0] or "."


def files_imported(path: Path) -> Iterator[Path]:
    """The files of the repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = list(path.relative_to(ROOT).parent.parts)
            start = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOT / name.removeprefix("esd_pack.").replace(".", "/")
            for found in (place.with_suffix(".py"), place / "__init__.py"):
                if found.is_file() and found != path:
                    yield found


@pytest.mark.parametrize("path", [p for p in SOURCES if "tests" not in p.parts and room(p) != "."], ids=name_of)
def test_rooms_import_only_rooms_below_them(path):
    allowed = ROOMS[room(path)] | {room(path)}
    up = {
        name_of(found) for found in files_imported(path) if room(found) not in allowed and found.name != "__init__.py"
    }
    assert up == set()


def test_no_room_is_above_itself():
    order = list(ROOMS)
    for name, below in ROOMS.items():
        assert all(order.index(each) < order.index(name) for each in below - {"."}), name


def test_tests_import_from_no_test():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not [found for found in files_imported(path) if found.name.startswith("test_")]
        assert not {module for module, level in imports(path) if module.startswith("test_") and not level}, name_of(
            path
        )


def test_ruff_asks_for_all_that_the_host_asks_for(comfy_path):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    theirs = tomllib.loads((comfy_path / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]["select"]
    ours = tuple(settings["select"])
    assert theirs and [rule for rule in theirs if not rule.startswith(ours)] == []
    assert {"E", "F", "W", "I", "B", "UP", "D", "S", "T"} <= set(ours)
    left_out = [rules for path, rules in settings["per-file-ignores"].items() if path.startswith(("esd", "nodes", "*"))]
    assert left_out == [] and not {"S", "D", "B", "D1", "D103"} & set(settings["ignore"])


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").rglob("*.py")), ids=name_of)
def test_nodes_import_nothing_that_is_beside_them(path):
    imported = {module.partition(".")[0] for module, _ in imports(path)}
    assert not imported & {"lab", "tests", "commands", "support", "esd_pack"}


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_commands_use_what_ships_and_what_the_host_brings_and_start_no_program(path):
    shipped = {"commands", "esd_pack"} | TORCH_AND_FRIENDS | {"numpy", "PIL"} | HOST_MODULES
    allowed = shipped | set(sys.stdlib_module_names) - STARTERS
    allowed |= IN_BATCHES if path.parent.name == "batch" else set()
    assert {module for module, level in imports(path) if not level} <= allowed


def test_no_function_is_long_and_most_are_short():
    found = {
        (name_of(path), name): lines for path in SOURCES if "tests" not in path.parts for name, lines in functions(path)
    }
    schemas = {key for key in found if key[1] == "define_schema"}  # data: a line an input
    assert {key: lines for key, lines in found.items() if lines > 60} == {}
    lengths = [lines for key, lines in found.items() if key not in schemas]
    assert statistics.median(lengths) <= 12
    assert sum(lines <= 40 for lines in lengths) >= 0.9 * len(lengths)


@pytest.mark.parametrize("path", [path for path in SOURCES if "tests" not in path.parts], ids=name_of)
def test_no_file_is_long(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_can_be_read_on_windows(path):
    path.read_bytes().decode("utf-8").encode("cp1252")


@pytest.mark.parametrize("path", PACK, ids=name_of)
def test_nothing_prints_or_evaluates(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"print", "eval", "exec", "breakpoint"}


@pytest.mark.parametrize("path", [*PACK, *COMMANDS], ids=name_of)
def test_no_function_rebinds_a_module_s_name(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("path", [*PACK, *COMMANDS], ids=name_of)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    inner = {
        child for node in found if not isinstance(node, ast.ClassDef) for child in ast.walk(node) if child is not node
    }
    public = [node for node in found if node not in inner and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree)
