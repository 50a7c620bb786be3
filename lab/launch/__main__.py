"""Runs a command inside the environment that `run.py` made: `python lab/launch COMMAND [arguments]`."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT)] + [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "lab" / "launch"]

from commands import evaluate  # noqa: E402
from lab.launch import arguments, check, demo, lint, locales, newest, serve  # noqa: E402
from lab.launch.server import ServerError  # noqa: E402


def _add_packages() -> None:
    packages = os.environ.get("ESD_TEST_PACKAGES")
    if packages:  # last, so that what the user's ComfyUI has comes first
        sys.path.append(packages)


def _test(rest: list[str]) -> int:
    _add_packages()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and servers and a browser run beside
    import pytest

    os.chdir(ROOT)
    named = newest.named_tests(rest)
    one_file = len(named) == 1 and ".py" in named[0]
    return int(pytest.main(rest if one_file else ["-n", "2", "--no-loadscope-reorder", *rest]))


def _lint(rest: list[str]) -> int:
    _add_packages()
    return lint.main()


def _bench(rest: list[str]) -> int:
    _add_packages()
    sys.argv = rest
    sys.path.insert(0, str(ROOT / "lab" / "bench"))  # where it would be had the file been started itself
    runpy.run_path(str(ROOT / "lab" / "bench" / f"{rest[0]}.py"), run_name="__main__")
    return 0


def _demo(rest: list[str]) -> int:
    demo.main(arguments.parse_demo(rest))
    return 0


def _check(rest: list[str]) -> int:
    return check.main(arguments.check_parser().parse_args(rest))


def _evaluate(rest: list[str]) -> int:
    return check.main(arguments.evaluate_parser().parse_args(rest), evaluate.run)


def _batch(rest: list[str]) -> int:
    from lab.launch import batch  # which imports the pack and torch: tests load both in a way of their own

    return batch.main(arguments.batch_parser().parse_args(rest))


def _serve(rest: list[str]) -> int:
    serve.main(arguments.serve_parser().parse_args(rest))
    return 0


def _locales(rest: list[str]) -> int:
    return 1 if locales.main() else 0


def _playground(rest: list[str]) -> int:
    _add_packages()
    from lab.playground.recipe import command

    return command.main(arguments.playground_parser().parse_args(rest))


COMMANDS = {
    "demo": _demo,
    "check": _check,
    "evaluate": _evaluate,
    "batch": _batch,
    "serve": _serve,
    "test": _test,
    "lint": _lint,
    "bench": _bench,
    "locales": _locales,
    "playground": _playground,
}


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run the command; what goes wrong is one sentence on the terminal and an exit code that is not 0."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
            signal.signal(number, _leave)
    try:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (ServerError, ValueError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
