"""Set up, demonstrate, serve and test the node pack: `python run.py` lists the commands. Needs Python 3.11 or newer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
RUN = ROOT / ".run"

if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: start run.py with a newer one.")
sys.path.insert(0, str(ROOT))

from lab.launch import arguments, newest, setup  # noqa: E402


def main() -> int:
    """Check the command line, make the environment, and hand over to its Python."""
    command, rest = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command not in arguments.SUMMARY:
        print(arguments.usage())
        return 0 if command in ("--help", "-h", "help") else _complain(f'There is no command "{command}".')
    problem = _check(command, rest)
    if problem:
        return _complain(problem)
    rest = _for_pytest(rest) if command == "test" else rest
    try:
        return _hand_over(setup.ensure(for_tests=command in ("test", "lint", "playground", "bench")), [command, *rest])
    except KeyboardInterrupt:
        return _complain("\nStopped; the next run goes on from here.", 130)
    except (setup.SetupError, OSError) as error:
        return _complain(str(error))


def _check(command: str, rest: list[str]) -> str:
    if command == "demo":
        arguments.parse_demo(rest)
    if command == "check":
        arguments.check_parser().parse_args(rest)
    if command == "evaluate":
        arguments.evaluate_parser().parse_args(rest)
    if command == "batch":
        arguments.batch_parser().parse_args(rest)
    if command == "serve":
        arguments.serve_parser().parse_args(rest)
    if command == "locales":
        arguments.locales_parser().parse_args(rest)
    if command == "playground":
        return arguments.stages_problem(arguments.playground_parser().parse_args(rest).stages)
    names = arguments.bench_names(ROOT / "lab" / "bench")
    if command == "bench" and rest[:1] in (["--help"], ["-h"]):
        print(f"usage: run.py bench NAME [--help] [ARGUMENT ...]\n\nNAME is one of {', '.join(names)}.")
        raise SystemExit(0)
    if command == "bench" and rest[:1] not in [[name] for name in names]:
        return f"Name a benchmark: {', '.join(names) or 'there is none yet'}."
    return ""


def _for_pytest(rest: list[str]) -> list[str]:
    options, rest = arguments.test_parser().parse_known_args(rest)
    if not options.host:
        return rest
    if not newest.choose(os.environ):
        print(newest.SKIPPED)
        raise SystemExit(0)
    return newest.pytest_arguments(rest)


def _hand_over(environment: setup.Environment, command: list[str]) -> int:
    os.environ.update(_variables(environment))
    line = [str(environment.python), str(ROOT / "lab" / "launch" / "__main__.py"), *command]
    if sys.platform != "win32":
        os.execv(line[0], line)
    with subprocess.Popen(line) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command got it too, and ends by itself


def _variables(environment: setup.Environment) -> dict[str, str]:
    temporary = RUN / "tmp"
    temporary.mkdir(exist_ok=True)
    packages = environment.test_packages
    return {
        "COMFYUI_PATH": str(environment.host),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),  # spinning threads starve each other
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "TMP": str(temporary),
        **({"ESD_TEST_PACKAGES": str(packages)} if packages else {}),
    }


def _complain(words: str, code: int = 1) -> int:
    print(words, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
