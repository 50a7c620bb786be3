"""The command line: what each command of `run.py` accepts (standard library only)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import check, evaluate
from commands.batch import options as batch
from commands.playground import tasks, world

METHODS = ("esd-x", "esd-x-strict", "esd-u", "esd-all", "selfattn")
STAGES = ("pictures", "autoencoder", "judge", "second-judge", "denoiser", "pack", "measure", "sheet")
CAT = [("cat", "")]
"""What the demo erases where nothing is named: (concept, what it is erased from)."""
SUMMARY = {
    "demo": "erase a concept from the playground model in a real ComfyUI, and judge the result",
    "check": "prove on this machine, with its GPU, that the nodes work in ComfyUI",
    "evaluate": "measure erasures, table by table: baselines, objects, style and more",
    "batch": "erase a list of concepts from a list of models, on this machine or on a Ray cluster",
    "serve": "leave the same ComfyUI running, with the nodes in it, and open it in the browser",
    "test": "run the quick tests, --full what CI runs, --nightly everything; further arguments go to pytest",
    "lint": "run ruff and mypy",
    "locales": "write the English node texts from the schemas, and say what the translations lack",
    "playground": "make the small checkpoint and its judges again, or measure them, stage by stage",
    "bench": "run a benchmark of bench/ by its name; further arguments go to it",
}


def usage() -> str:
    """What `python run.py` prints."""
    lines = [f"  python run.py {name:<10} {words}" for name, words in SUMMARY.items()]
    tail = "Add --help to a command to see what it accepts. COMFYUI_PATH names a ComfyUI of your own to use."
    return "\n".join(["Erase concepts from diffusion models with ESD, in ComfyUI.", "", *lines, "", tail])


class _Erase(argparse.Action):
    """`--erase WORDS`, as often as wanted; `--from WHOLE` makes an attribute of the one before it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, words: Any, *more: Any) -> None:
        """Add a concept, or change the last."""
        given = [] if namespace.erase is CAT else list(namespace.erase)
        if self.dest == "erase_from" and not given:
            parser.error("--from says what the --erase before it is erased from")
        named = (given.pop()[0], words) if self.dest == "erase_from" else (words, "")
        namespace.erase = [*given, named]


def parse_demo(words: list[str]) -> argparse.Namespace:
    """Return the options of `demo`, each concept as a task; ends the program where one is not drawn."""
    parser = demo_parser()
    options = parser.parse_args(words)
    try:
        found = [tasks.erased_from(*each) if each[1] else tasks.find_task(each[0]) for each in options.erase]
    except ValueError as error:
        parser.error(str(error))
    options.erase = list(dict.fromkeys(found))
    return options


def _positive(words: str) -> int:
    if not words.isdigit() or int(words) < 1:
        raise argparse.ArgumentTypeError(f'"{words}" is not a whole number above 0')
    return int(words)


def _port(words: str) -> int:
    if not words.isdigit() or not 0 < int(words) < 65536:
        raise argparse.ArgumentTypeError(f'"{words}" is not a port number, 1 to 65535')
    return int(words)


def _seed(words: str) -> int:
    if not words.isdigit() or int(words) >= 2**64:
        raise argparse.ArgumentTypeError(f'"{words}" is not a seed, 0 to 2^64 - 1')
    return int(words)


def _sentence(command: str) -> str:
    return SUMMARY[command][0].upper() + SUMMARY[command][1:] + "."


def demo_parser() -> argparse.ArgumentParser:
    """Options of `demo`."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=_sentence("demo"))
    parser.add_argument(
        "--erase",
        action=_Erase,
        default=CAT,
        metavar="CONCEPT",
        help='an object or a style of the playground: "cat", "ghost", "ink style" (default: cat); may be repeated',
    )
    parser.add_argument(
        "--from",
        dest="erase_from",
        action=_Erase,
        default=argparse.SUPPRESS,
        metavar="OBJECT",
        help='what the concept before it is erased from: --erase sunglasses --from "face wearing sunglasses"',
    )
    parser.add_argument(
        "--world",
        choices=tuple(world.MODELS),
        default="sd1",
        help="the model that is erased from: sd1 (default), or sd35, a diffusion transformer",
    )
    parser.add_argument("--method", choices=METHODS, help="which weights are trained (default: as in the workflow)")
    parser.add_argument("--steps", type=_positive, help="training steps (default: as in the workflow)")
    parser.add_argument("--seed", type=_seed, help="seed of the training (default: as in the workflow)")
    parser.add_argument(
        "--pictures",
        type=_positive,
        default=64,
        metavar="N",
        help="how many pictures of the erased concept are judged before and after (default: 64)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the verdict to this file")
    return parser


class _AtServer(argparse.ArgumentParser):
    """A parser that leaves what follows the first -- to ComfyUI, as `comfyui`."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what comes before; argparse by itself takes no words after an option's for another argument."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        options = super().parse_args(words[:end], namespace)
        options.comfyui = words[end + 1 :]
        return options


def _at_a_server(
    command: str, add_options: Callable[[argparse.ArgumentParser], None], example: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with these options, whose last arguments, after --, go to ComfyUI."""
    parser = _AtServer(prog=f"run.py {command}", description=_sentence(command))
    add_options(parser)
    shown = " ".join(filter(None, (command, example)))
    parser.epilog = f"Arguments after -- go to ComfyUI as they are, for example: run.py {shown} -- --lowvram"
    return parser


def check_parser() -> argparse.ArgumentParser:
    """Options of `check`."""
    return _at_a_server("check", check.add_options)


def evaluate_parser() -> argparse.ArgumentParser:
    """Options of `evaluate`."""
    return _at_a_server("evaluate", evaluate.add_options, "baselines")


def batch_parser() -> argparse.ArgumentParser:
    """Options of `batch`."""
    return _at_a_server("batch", batch.add_options, "jobs.yaml")


def serve_parser() -> argparse.ArgumentParser:
    """Options of `serve`."""
    return _at_a_server("serve", _serve_options)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, help="the port to listen on (default: 8188 where it is free)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, but do not open it")


def test_parser() -> argparse.ArgumentParser:
    """The option of `test`; everything else, --help too, is pytest's."""
    parser = argparse.ArgumentParser(prog="run.py test", add_help=False, allow_abbrev=False)
    parser.add_argument("--host", choices=("newest",))
    return parser


def locales_parser() -> argparse.ArgumentParser:
    """`locales` has no options."""
    return argparse.ArgumentParser(prog="run.py locales", description=_sentence("locales"))


def playground_parser() -> argparse.ArgumentParser:
    """Options of `playground`."""
    parser = argparse.ArgumentParser(prog="run.py playground", description=_sentence("playground"))
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"what to do, of {', '.join(STAGES)} (default: all, in this order)"
    )
    parser.add_argument(
        "--layout",
        choices=tuple(world.MODELS),
        default="sd1",
        help="the family of the model: sd1 (default), or sd35, a diffusion transformer",
    )
    parser.add_argument(
        "--world", type=Path, metavar="FILE", help="the objects to draw (default: commands/playground/world.json)"
    )
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where all is kept (default: in .run/playground)")
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="a checkpoint like the shipped one, to train on from"
    )
    parser.add_argument(
        "--shipped", action="store_true", help="only what belongs to the checkpoint that the repository has"
    )
    parser.add_argument("--steps", type=_positive, help="train each network for so many steps (default: the recipe's)")
    parser.add_argument("--threads", type=_positive, help="how many cores to use (default: all)")
    return parser


def stages_problem(stages: list[str]) -> str:
    """What is wrong with the names of stages, or nothing."""
    unknown = [stage for stage in stages if stage not in STAGES]
    return f'There is no stage "{unknown[0]}": name some of {", ".join(STAGES)}.' if unknown else ""


def bench_names(folder: Path) -> list[str]:
    """The benchmarks that there are."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
