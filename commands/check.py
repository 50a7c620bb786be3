"""Prove that the pack works in the ComfyUI that runs on this machine: `python commands/check.py`, with its Python.

A small model is erased and judged on ComfyUI's device, and once more here on the CPU; the two must agree.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

if __name__ == "__main__":  # this file's folder is not where its package is found
    HERE = Path(os.path.abspath(__file__)).parent
    sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if os.path.abspath(entry or ".") != str(HERE))]

from commands import compare, findings, inprocess, places, report  # noqa: E402
from commands.playground.world import CHECKPOINT  # noqa: E402
from commands.recipe import SEED, Recipe  # noqa: E402
from commands.talk import Address, ServerError  # noqa: E402

Json = dict[str, Any]

log = logging.getLogger("esd.check")

URL = "http://127.0.0.1:8188"
NEEDED = ("torch", "safetensors", "numpy", "PIL", "aiohttp")
AUTO, FP32 = "as the host chooses", "in fp32"
FORMAT = "esd-check-1"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the check has however it is started."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file instead of printing it")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=Recipe.pictures, help="pictures of the erased concept (default: %(default)s)"
    )
    parser.add_argument("--others", type=int, default=Recipe.others, help="of other objects (default: %(default)s)")


def own_parser() -> argparse.ArgumentParser:
    """Return the command line of a check against a ComfyUI that runs already."""
    parser = argparse.ArgumentParser(prog="check.py", description=__doc__)
    parser.add_argument("--url", default=URL, help="where ComfyUI answers (default: %(default)s)")
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="ComfyUI's own folder, where main.py is")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="the models folder that this ComfyUI uses")
    add_options(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Check, print the screen and the JSON, and return the exit code; raises ServerError where nothing can begin."""
    start, target = time.monotonic(), options.json and options.json.absolute()
    require_packages()
    server = Address(options.url)
    stats = greeted(server)
    argv = stats["system"]["argv"]
    host = places.host_folder(options.comfyui, argv)
    recipe = Recipe(options.steps, options.pictures, options.others)
    figures = about(stats, recipe)
    with places.checkpoint_in_place(server, places.models_folders(options.models, argv, host)):
        differences = on_device(server, recipe, figures, places.output_folders(argv, host))
    on_cpu(host, recipe, figures, differences)
    figures["seconds"] = round(time.monotonic() - start, 1)
    found = findings.findings(figures)
    good, figures["verdict"] = findings.verdict(found, figures["device"])
    print("\n" + report.screen(figures, found))
    tell(report.as_text(figures, [host, places.ROOT, places.ROOT.resolve(), Path.cwd()]), target)
    return 0 if good else 1


def require_packages() -> None:
    """Raise ServerError where this is not ComfyUI's own Python."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ServerError(f"{sys.executable} has no {missing[0]}: run this with the Python that starts your ComfyUI.")


def greeted(server: Address) -> Json:
    """Return what the server says about itself; raise ServerError where none answers or the pack is not in it."""
    try:
        stats = dict(server.get("/system_stats"))
        if not (stats["devices"] and stats["system"]["argv"]):
            raise ValueError("this is not what ComfyUI answers")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServerError(
            f"No ComfyUI answers at {server.url}: start ComfyUI as always and run the command again (--url ADDRESS "
            "where it is elsewhere)."
        ) from error
    with contextlib.suppress(HTTPError):  # it does not know the pack's route
        if server.get("/object_info/ESDErase") and "runs" in server.get("/esd/runs"):
            return stats
    raise ServerError(f"The ComfyUI at {server.url} has not loaded this pack: look at what it said as it started.")


def about(stats: Json, recipe: Recipe) -> Json:
    """Return the figures before anything has run."""
    inprocess.as_package()
    from esd_pack.version import VERSION

    system = stats["system"]
    return {
        "format": FORMAT,
        "pack": VERSION,
        "system": {
            "host": system.get("comfyui_version", "of unknown version"),
            "torch": system.get("pytorch_version", ""),
            "python": system.get("python_version", "").partition(" ")[0],
            "platform": platform.platform(),
            "arguments": report.arguments_shown(system["argv"]),
        },
        "device": {name: stats["devices"][0].get(name) for name in ("name", "type", "vram_total")},
        "recipe": {**recipe.settings, "pictures": recipe.pictures, "others": recipe.others},
        "errors": {},
        "same": {},
        "runs": {},
        "cpu": None,
        "judged": None,
        "left": [],
    }


def on_device(server: Address, recipe: Recipe, figures: Json, outputs: list[Path]) -> dict[str, Any]:
    """Erase in the server, once more in fp32 where it chose otherwise; returns the differences by run."""
    from commands import device_arm

    memory, leavings, differences = device_arm.Memory(server), places.Leavings(outputs, SEED), {}
    precisions = {AUTO: "auto", FP32: "fp32"}
    for name, precision in precisions.items():
        if name == FP32 and figures["runs"].get(AUTO, {}).get("precision") == findings.EXACT:
            continue
        with noted(f"on the device, {name}", figures):
            arm = device_arm.erase(server, recipe, leavings, memory, precision)
            figures["runs"][name], differences[name] = arm.run, arm.differences
            figures["judged"] = figures["judged"] or arm.judged
            figures["same"] = same(arm.metadata, figures["pack"])
    figures["memory"], figures["left"] = memory.as_json(), leavings.remove()
    return differences


def same(metadata: dict[str, str], version: str) -> Json:
    """Return what must be the same here and in the server: the pack, and the file that is erased from."""
    return {
        "pack": {"here": version, "server": metadata.get("esd.version", "")},
        "base file": {"here": compare.sha256(CHECKPOINT), "server": metadata.get("esd.base_sha256", "")},
    }


def on_cpu(host: Path, recipe: Recipe, figures: Json, differences: dict[str, Any]) -> None:
    """Erase here, and compare each run of the device with that."""
    from commands import cpu_arm

    with noted("on the CPU, in this process", figures):
        reference = cpu_arm.erase(host, recipe)
        figures["cpu"] = {"seconds": reference.seconds}
        for name, difference in differences.items():
            figures["runs"][name] |= compare.compared(difference, reference.differences)


@contextlib.contextmanager
def noted(where: str, figures: Json) -> Iterator[None]:
    """Say what begins; an error in it becomes a part of the report, which is worth most then."""
    log.info("Erasing %s ...", where)
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a host may raise anything
        words = str(error) if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"
        figures["errors"][where] = {"words": words, "traceback": compare.traceback_of(error)}


def tell(text: str, target: Path | None) -> None:
    """Write the JSON, or print it for an issue."""
    if target is None:
        print(report.fenced(text))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n", encoding="utf-8")


def main(work: Callable[[], int]) -> int:
    """Do the work, telling its progress; what keeps it from beginning is one sentence and an exit code of 1."""
    log.setLevel(logging.INFO)
    log.handlers, log.propagate = [logging.StreamHandler()], False  # on the terminal, whatever the host's own log does
    try:
        return work()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (ServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(lambda: run(own_parser().parse_args())))
