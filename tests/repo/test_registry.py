"""What the Comfy registry and ComfyUI-Manager read: one version, pictures that exist, a complete archive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tomllib

from lab.launch.base import PLAYGROUND

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMFY = PROJECT["tool"]["comfy"]
HOSTED = PROJECT["project"]["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"


@pytest.fixture(scope="module")
def archive() -> set[str]:
    """The files that the registry's archive holds: tracked by git, and not in .comfyignore."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    def listed(*options: str) -> set[str]:
        line = ["git", "-C", str(ROOT), "ls-files", *options]
        return set(subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines())

    return listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore")


def test_the_version_is_the_same_everywhere():
    """The registry reads pyproject.toml, saved files carry version.py's, people read the changelog."""
    from esd_pack.version import VERSION

    assert PROJECT["project"]["version"] == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest == VERSION


def test_the_registry_s_rules_for_names():
    name = PROJECT["project"]["name"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name) and len(name) < 100
    assert "comfyui" not in name.lower() and "." not in name  # a dot would cost the folder its help pages
    assert COMFY["PublisherId"] and COMFY["DisplayName"]
    assert (ROOT / PROJECT["project"]["license"]["file"]).is_file()
    assert re.fullmatch(r">=\d+\.\d+\.\d+", COMFY["requires-comfyui"])


@pytest.mark.parametrize(("key", "ratio"), [("Icon", 1), ("Banner", 21 / 9)])
def test_icon_and_banner_are_files_of_the_repository(key, ratio):
    """At most 800 x 400 for the icon, 21:9 for the banner, plain shapes without links or scripts."""
    assert COMFY[key].startswith(HOSTED)
    picture = ElementTree.parse(ROOT / COMFY[key].removeprefix(HOSTED)).getroot()
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    assert width / height == pytest.approx(ratio)
    assert key != "Icon" or (width <= 800 and height <= 400)
    kinds = {element.tag.rpartition("}")[2] for element in picture.iter()}
    assert kinds <= {"svg", "g", "rect", "circle", "path", "text"}


def test_publishing_waits_for_a_changed_pyproject():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    assert '- "pyproject.toml"' in text and "- main" in text
    assert "Comfy-Org/publish-node-action@main" in text and "secrets.REGISTRY_ACCESS_TOKEN" in text


def test_the_archive_has_what_comfyui_loads(archive):
    folders = {name.partition("/")[0] for name in archive}
    assert {"__init__.py", "version.py", "pyproject.toml", "LICENSE", "README.md"} <= archive
    assert {"esd", "nodes", "web", "locales", "workflows", "subgraphs", "commands"} <= folders
    tracked = {path.relative_to(ROOT).as_posix() for part in ("esd", "nodes") for path in (ROOT / part).rglob("*.py")}
    known = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    assert tracked & set(known.splitlines()) <= archive


def test_the_archive_has_what_the_workflows_load(archive):
    for path in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text("utf-8"))["nodes"]:
            for value in node.get("widgets_values") or []:
                if isinstance(value, str) and value in PLAYGROUND:
                    assert f"workflows/models/{value}" in archive


def test_the_archive_has_nothing_that_only_developers_need(archive):
    folders = {name.partition("/")[0] for name in archive}
    assert not folders & {"tests", "lab", "docs", ".ci", ".github", "run.py"}


def test_the_archive_has_the_help_pages_with_their_pictures(archive):
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert len(pages) > 20 and pages <= archive


def test_the_archive_has_what_the_check_needs(archive):
    parts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "commands").glob("*.py")}
    judge = {
        f"commands/playground/{name}"
        for name in ("__init__.py", "judge.py", "world.py", "judge.safetensors", "world.json")
    }
    assert "commands/check.py" in parts and parts | judge <= archive
