"""Small faults put into the method's source one at a time: some test must notice each of them.

    python tests/mutants.py --all                        every fault, a quarter of an hour
    python tests/mutants.py --sample 20 --seed 1         a sample, as tests/test_mutants.py takes it
    python tests/mutants.py --only "walk.py: walk: + -> -"

A fault is named by its file, its function, and what becomes of which expression, so that the name outlives other
changes.  `EQUIVALENT` has those that change nothing that could be noticed, each with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import json
import os
import random
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "objective.py": ("method/test_objective.py",),
    "selection.py": ("method/test_selection.py",),
    "files/atomic.py": ("formats/test_files.py",),
    "trajectory.py": ("method/test_objective.py", "method/test_examples.py"),
    "examples.py": ("method/test_examples.py", "method/test_train.py", "method/test_resume.py"),
    "train.py": ("method/test_train.py", "method/test_resume.py"),
    "denoiser.py": ("method/test_examples.py",),
    "settings.py": ("method/test_concepts_settings.py", "method/test_first_names.py"),
    "presets.py": ("method/test_concepts_settings.py", "method/test_objective.py"),
    "optimizers.py": ("method/test_optimizers.py", "method/test_train.py"),
    "published.py": ("method/test_examples.py",),
    "concepts.py": ("method/test_concepts_settings.py",),
    "snapshot.py": ("method/test_resume.py",),
}
"""The files that get faults, and the fast tests that must notice."""

PROVEN = ("objective.py", "selection.py", "files/atomic.py", "trajectory.py")
"""The files of which every fault is noticed, and from which a sample is drawn; `--all` goes through the others too."""

LONGEST = 60
"""Seconds before a fault counts as noticed because nothing ends any more."""

EQUIVALENT: dict[str, str] = {}


@dataclass(frozen=True)
class Mutant:
    """A fault: the file, its name, and the whole source with it."""

    file: str
    name: str
    tree: ast.Module


OTHERS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from (ast.Compare(node.left, [op()], node.comparators) for op in OTHERS[type(node.ops[0])])
    elif isinstance(node, ast.BinOp) and not isinstance(node.left, ast.JoinedStr | ast.Constant):
        yield from (ast.BinOp(node.left, op(), node.right) for op in OTHERS.get(type(node.op), ()))
    elif isinstance(node, ast.BoolOp):
        yield from (ast.BoolOp(op(), node.values) for op in OTHERS[type(node.op)])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def mutants(file: str) -> list[Mutant]:
    """Every fault of a file, in the order of the source."""
    tree = ast.parse((ROOT / "esd" / file).read_text("utf-8"))
    found: list[Mutant] = []
    names: Counter[str] = Counter()
    for place, where in _places(tree, ()):
        for other in replacements(_at(tree, place)):
            changed = copy.deepcopy(tree)
            _put(changed, place, copy.deepcopy(other))
            was, now = ast.unparse(_at(tree, place)), ast.unparse(ast.fix_missing_locations(other))
            name = f"{file}: {where}: {was} -> {now}"
            names[name] += 1
            name += f" ({names[name]})" if names[name] > 1 else ""
            found.append(Mutant(file, name, ast.fix_missing_locations(changed)))
    return found


Place = tuple[tuple[str, int | None], ...]
NO_CODE = ("annotation", "returns", "decorator_list", "type_comment")


def _places(node: ast.AST, place: Place, where: str = "module") -> Iterator[tuple[Place, str]]:
    """The way to every node that runs, and the function it stands in; words of errors and types are left out."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = node.name if where == "module" else f"{where}.{node.name}"
    for name, value in ast.iter_fields(node):
        if name in NO_CODE or isinstance(node, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield (*place, (name, index)), where
                yield from _places(child, (*place, (name, index)), where)


def _at(tree: ast.AST, place: Place) -> ast.AST:
    node = tree
    for name, index in place:
        value = getattr(node, name)
        node = value if index is None else value[index]
    return node


def _put(tree: ast.AST, place: Place, other: ast.AST) -> None:
    parent, (name, index) = _at(tree, place[:-1]), place[-1]
    if index is None:
        setattr(parent, name, other)
    else:
        getattr(parent, name)[index] = other


def noticed(mutant: Mutant) -> bool:
    """Whether the tests fail, or do not end, with the fault; in a process of its own, which has torch already."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = _tests_with(mutant)
        finally:
            os._exit(min(code, 100))
    return _ended(child) != 0


def _ended(child: int) -> int:
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _tests_with(mutant: Mutant) -> int:
    import pytest

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    pack = types.ModuleType("esd_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["esd_pack"] = pack
    _as_module(mutant)
    os.chdir(ROOT)
    files = [f"tests/{name}" for name in TESTS[mutant.file]]
    return int(pytest.main([*files, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]))


def _as_module(mutant: Mutant) -> None:
    name = f"esd_pack.esd.{mutant.file.removesuffix('.py').replace('/', '.')}"
    spec = importlib.util.spec_from_file_location(name, ROOT / "esd" / mutant.file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(mutant.tree, str(ROOT / "esd" / mutant.file), "exec"), vars(module))  # noqa: S102 our own source


def main() -> int:
    """Run the chosen faults; prints a line of JSON: how many, and the names of those that nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--file", default="")
    choice = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("this needs a system that can fork")
    found = [
        m
        for file in (TESTS if choice.all or choice.file or choice.only else PROVEN)
        for m in mutants(file)
        if m.name not in EQUIVALENT and choice.file in m.name
    ]
    if choice.only:
        found = [m for m in found if m.name == choice.only]
    elif not choice.all:
        found = random.Random(choice.seed).sample(found, choice.sample)
    import einops  # noqa: F401  before the forks, which then need not
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401

    for file in {mutant.file for mutant in found}:
        if noticed(Mutant(file, "none", ast.parse((ROOT / "esd" / file).read_text("utf-8")))):
            parser.error(f"the tests of {file} fail without any fault")
    survived = []
    for mutant in found:
        if not noticed(mutant):
            survived.append(mutant.name)
            sys.stderr.write(f"nobody noticed {mutant.name}\n")
    sys.stdout.write(json.dumps({"tried": len(found), "survived": survived}) + "\n")
    return len(survived) > 0


if __name__ == "__main__":
    sys.exit(main())
