"""Documents are held to what they describe: paths that exist, presets, official names, links, tiers, lengths."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from esd_pack.esd.presets import PRESETS
from esd_pack.esd.settings import ETA_BY_KIND, FIELDS
from support.paths import ROOT

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "lab" / "playground" / "README.md",
]
EVERY = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
LATER = {"CHANGELOG.md"}
"""Documents that speak of former names too."""

PLACE = re.compile(r"`((?:esd|nodes|web|locales|workflows|commands|docs|tests|lab)/[\w./-]*)`")


@EVERY
def test_the_files_it_names_exist(path):
    if path.name in LATER:
        pytest.skip("it tells of former places")
    named = PLACE.findall(path.read_text("utf-8"))
    spelled = {
        name: (name, f"{name}.py", f"{name.rpartition('.')[0]}.py") for name in named
    }  # a file, module or function
    assert [name for name, ways in spelled.items() if not any((ROOT / way).exists() for way in ways)] == []


@EVERY
def test_its_links_lead_somewhere(path):
    text = path.read_text("utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or "<" in target:
            continue
        found = (path.parent / file).resolve() if file else path
        anchors = anchors_of(found) if anchor and found.suffix == ".md" and found.is_file() else {anchor}
        if not found.exists() or anchor not in anchors:
            broken.append(target)
    assert broken == []


def anchors_of(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\[|\]\([^)]*\)", "", head)).lower().replace(" ", "-") for head in heads
    }


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1000


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_in_the_documents_are_the_presets(name):
    values = PRESETS[name]
    (row,) = re.findall(
        rf"^\| `{name}`[^|]*\|(.*)\|$", (ROOT / "docs" / "settings.md").read_text("utf-8"), re.MULTILINE
    )
    steps, rate, eta, sampler, guidance, _ = (cell.strip() for cell in row.split("|"))
    (most,) = re.findall(r"\d+", steps)
    told = (int(most), float(rate), ETA_BY_KIND if eta == "by kind" else float(eta), sampler)
    assert told == (values["steps"], values["learning_rate"], values["eta"], values["sampler_model"])
    assert not values["guidance_scale"] or float(guidance) == values["guidance_scale"]


def test_official_names_stand_beside_ours():
    rows = re.findall(r"^\| (\*\*.*)$", (ROOT / "docs" / "official-parameters.md").read_text("utf-8"), re.MULTILINE)
    for name, field in FIELDS.items():
        if field.official and field.tooltip:
            (row,) = (line for line in rows if f"**{name}**" in line.partition("|")[0])
            assert f"--{field.official}" in row, (name, row)


def test_the_tiers_in_the_design_are_those_of_the_tests():
    """Each test file of the table is there, and the quick tier has some of those that say quick."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8").partition("## What is proven where")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    listed = [(place, tier) for _, tests, tier in rows[1:] for place in re.findall(r"`(tests/[^`]+)`", tests)]
    assert len(listed) > 20 and all((ROOT / place).exists() for place, _ in listed)
    line = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    quick = {name.partition("::")[0] for name in found.splitlines() if "::" in name}
    for place, tier in listed:
        if tier.startswith("quick") and place.endswith(".py") and "," not in tier:
            assert place in quick, place
        if tier.startswith(("full", "nightly")):
            assert place.rstrip("/") not in quick, place


def test_every_room_of_the_tests_is_in_the_table():
    text = (ROOT / "docs" / "design.md").read_text("utf-8").partition("## What is proven where")[2]
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert all(f"tests/{room}/" in text for room in rooms)
