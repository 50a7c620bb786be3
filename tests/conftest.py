"""Tiers, and fixtures: the pack with no host, the host's modules in this process, a server, a page in a browser."""

from __future__ import annotations

import asyncio
import gc
import importlib.abc
import importlib.util
import os
import shutil
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support")

from support.tier import TIERS, VARIABLE  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = "emoji-world.ckpt"

# The pack under a fixed name, whatever its folder is called, without running its __init__.py:
# `import esd_pack.esd.walk` and the relative imports inside the pack then work with no host at all.
_pack = types.ModuleType("esd_pack")
_pack.__path__ = [str(ROOT)]
sys.modules["esd_pack"] = _pack
if str(ROOT) not in sys.path:  # for commands and lab
    sys.path.append(str(ROOT))


BUDGET_SECONDS = 5
"""How much of the processor a test of the quick tier may take, its fixtures not counted."""

ROOM_TIERS = {"security": "full", "stress": "full"}
"""The tier of a room's tests that name none themselves; else quick."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the tiers above the quick one."""
    group = parser.getgroup("tiers")
    group.addoption("--full", action="store_true", help="what CI runs: every sweep, workflow, reference and fault")
    group.addoption("--nightly", action="store_true", help="everything, and what is drawn at random many times over")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the tier: as asked, else quick; tests that are named on the command line run in any case."""
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: from this tier on (support/tier.py)")
    workers = getattr(config, "workerinput", None)  # of pytest-xdist, whose workers are given the tests by name
    named = workers[NAMED_KEY] if workers else config.args_source is config.ArgsSource.ARGS
    asked = "nightly" if config.getoption("nightly") else "full" if config.getoption("full") or named else "quick"
    os.environ[VARIABLE] = asked
    config.stash[NAMED] = named


NAMED = pytest.StashKey[bool]()
NAMED_KEY = "named"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker whether the command line names its tests."""
    node.workerinput[NAMED_KEY] = node.config.stash[NAMED]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one worker as a whole, and all that meet the server and the page to the same."""
    from support.workers import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of higher tiers."""
    if config.stash[NAMED]:
        return
    most = TIERS.index(os.environ[VARIABLE])
    kept = [item for item in items if TIERS.index(tier_of(item)) <= most]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def tier_of(item: pytest.Item) -> str:
    """The tier of a test: its own mark, its class's or file's, or its room's."""
    own = [mark.name for mark in item.iter_markers() if mark.name in TIERS]
    room = item.path.relative_to(ROOT / "tests").parts[0]
    return own[0] if own else ROOM_TIERS.get(room, "quick")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Warn of a test of the quick tier that takes more of the processor than its budget.

    It is no failure: how long a test takes is the machine's matter, too, and on a slow one many take longer.
    """
    before = time.process_time()
    yield
    taken = time.process_time() - before
    if os.environ[VARIABLE] == "quick" and taken > BUDGET_SECONDS:
        words = f"took {taken:.1f} s of the processor: a test of the quick tier may take {BUDGET_SECONDS}"
        warnings.warn(pytest.PytestWarning(f"{item.nodeid} {words}"), stacklevel=1)


class SamePack(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the host, which names the pack after its folder, the modules that tests know as `esd_pack`."""

    prefix = str(ROOT).replace(".", "_x_") + "."

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Answer for modules inside the pack alone."""
        return importlib.util.spec_from_loader(name, self) if name.startswith(self.prefix) else None

    def create_module(self, spec: Any) -> types.ModuleType:
        """Return the module under its other name."""
        module = importlib.import_module(f"esd_pack.{spec.name.removeprefix(self.prefix)}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module as it is: it has been run, and keeps its own name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


@pytest.fixture(scope="session")
def comfy_path() -> Path:
    """The ComfyUI tree; `run.py test` sets it."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set: start the tests with `python run.py test`")
    return Path(os.environ["COMFYUI_PATH"])


@pytest.fixture(scope="session")
def comfy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base folder of the host in this process: models/checkpoints has the playground, output is empty."""
    base = tmp_path_factory.mktemp("in-process")
    for name in ("custom_nodes", "input", "output", "temp", "user", "models/checkpoints", "models/loras"):
        (base / name).mkdir(parents=True)
    shutil.copy2(ROOT / "workflows" / "models" / CHECKPOINT, base / "models" / "checkpoints" / CHECKPOINT)
    return base


@pytest.fixture(scope="session")
def comfy(comfy_path: Path, comfy_base: Path) -> types.ModuleType:
    """The host's module `nodes`, in this process and on the CPU; its other modules can be imported after it."""
    sys.path.insert(0, str(comfy_path))  # first: the pack has a folder nodes/ too
    from comfy.cli_args import args

    args.cpu = True  # before comfy.model_management is imported
    args.base_directory = str(comfy_base)  # before folder_paths is imported
    import utils.extra_config  # noqa: F401  before nodes, whose import makes `utils` mean comfy/utils.py

    nodes = importlib.import_module("nodes")
    import server

    server.PromptServer(asyncio.new_event_loop())  # sets PromptServer.instance
    return nodes


@pytest.fixture(scope="module", autouse=True)
def _left_as_it_was() -> Iterator[None]:
    """Free what a file's tests leave: patches of an erased MODEL on shared weights, and large things in cycles."""
    yield
    if "comfy.model_management" in sys.modules:
        sys.modules["comfy.model_management"].unload_all_models()
    gc.collect()


@pytest.fixture
def runs(comfy_base: Path) -> Iterator[Path]:
    """The folder of the runs that Erase keeps in this process, empty before and after."""
    folder = comfy_base / "output" / "esd" / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def node_classes(comfy: Any) -> dict[str, Any]:
    """The pack, loaded by the host's own loader: node id -> class."""
    before = set(comfy.NODE_CLASS_MAPPINGS)
    sys.meta_path.insert(0, SamePack())
    assert asyncio.run(comfy.load_custom_node(str(ROOT)))
    return {name: node for name, node in comfy.NODE_CLASS_MAPPINGS.items() if name not in before}


@pytest.fixture(scope="session")
def load_extra(comfy: Any, comfy_path: Path) -> Callable[[str], None]:
    """Loads a file of the host's comfy_extras into this process: load_extra("nodes_model_merging")."""

    def load(name: str) -> None:
        path = comfy_path / "comfy_extras" / f"{name}.py"
        assert asyncio.run(comfy.load_custom_node(str(path), module_parent="comfy_extras"))

    return load


@pytest.fixture(scope="session")
def checkpoint(comfy_base: Path) -> Path:
    """The playground checkpoint in the models folder of the host in this process."""
    return comfy_base / "models" / "checkpoints" / CHECKPOINT


@pytest.fixture(scope="session")
def playground(comfy: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the playground, as the stock loader gives them in this process; never change them."""
    model, clip, vae = comfy.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(CHECKPOINT)
    return model, clip, vae


@pytest.fixture(scope="session")
def tiny(comfy: Any, node_classes: Any, playground: Any) -> Any:
    """A tiny MODEL, the playground's CLIP encoding each prompt once, and its VAE, for what no picture shows."""
    from support.graphs import CachedTextEncoder
    from support.tiny import tiny_model

    _, clip, vae = playground
    return types.SimpleNamespace(model=tiny_model(), clip=CachedTextEncoder(clip), vae=vae)


@pytest.fixture(scope="session")
def host(comfy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real server in a process of its own, with the pack and the playground in it."""
    from lab.launch.server import Server

    with Server(comfy_path, tmp_path_factory.mktemp("server"), arguments=["--cpu"]) as server:
        yield server.wait()


@pytest.fixture(scope="session")
def object_info(host: Any) -> dict[str, Any]:
    """The server's description of its nodes."""
    return dict(host.get("/object_info"))


@pytest.fixture
def page(host: Any) -> Iterator[Any]:
    """The host's own page in a browser."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    from support.browser import page_at

    with page_at(host.url) as opened:
        yield opened
