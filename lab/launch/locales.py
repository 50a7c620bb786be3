"""Node names and tooltips in other languages: English is written from the schemas, the others are held against it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from commands import inprocess
from lab.paths import OWN_HOST, ROOT, RUN

from . import base

FOLDER = ROOT / "locales"
FILE = "nodeDefs.json"
ENGLISH = "en"

Definitions = dict[str, Any]
Leaf = tuple[str, ...]


def definitions(classes: Iterable[Any]) -> Definitions:
    """What the schemas of node classes say, in the shape that the page reads: node id -> names and tooltips.

    Inputs that grow are left out: older hosts have none, and the page names each socket itself.
    """
    return {schema.node_id: _node(schema) for schema in (each.GET_SCHEMA() for each in classes)}


def _node(schema: Any) -> Definitions:
    made = {"display_name": schema.display_name, "description": schema.description}
    made["inputs"] = {each.id: _words(each) for each in schema.inputs if not hasattr(each, "template")}
    if schema.outputs:
        made["outputs"] = {str(number): _words(each) for number, each in enumerate(schema.outputs)}
    return made


def _words(socket: Any) -> Definitions:
    return {"name": socket.display_name or socket.id, "tooltip": socket.tooltip}


def languages(folder: Path = FOLDER) -> list[str]:
    """The codes of the languages that there are, English among them."""
    return sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))


def read(language: str, folder: Path = FOLDER) -> Definitions:
    """The definitions in a language."""
    return dict(json.loads((folder / language / FILE).read_text("utf-8")))


def write(language: str, made: Definitions, folder: Path = FOLDER) -> None:
    """Write the definitions of a language."""
    path = folder / language / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def leaves(made: Definitions, at: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Every text with the keys that lead to it."""
    for key, value in made.items():
        if isinstance(value, dict):
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key), value


def compare(english: Definitions, other: Definitions) -> tuple[list[str], list[str]]:
    """The keys that a translation lacks, and those that the schemas no longer have."""
    ours, theirs = (dict(leaves(made)) for made in (english, other))
    return (
        [".".join(key) for key in ours if not theirs.get(key)],
        [".".join(key) for key in theirs if key not in ours],
    )


def ordered(english: Definitions, other: Definitions) -> Definitions:
    """A translation with its keys in the order of the schemas; what these do not have goes last."""
    keys = [*(key for key in english if key in other), *(key for key in other if key not in english)]
    return {
        key: ordered(english[key], other[key])
        if isinstance(other[key], dict) and isinstance(english.get(key), dict)
        else other[key]
        for key in keys
    }


def main() -> int:
    """Write English anew, put the others in its order, and say what they lack: how many keys are missing or stale."""
    classes = _classes()
    english, before = definitions(classes), read(ENGLISH) if (FOLDER / ENGLISH / FILE).exists() else {}
    write(ENGLISH, english)
    changed = [".".join(key) for key, text in leaves(english) if dict(leaves(before)).get(key, text) != text]
    print(f"{ENGLISH}: {len(list(leaves(english)))} texts, {len(changed)} changed")
    for key in changed:
        print(f"  changed, translate anew: {key}")
    return sum(_report(language, english) for language in languages() if language != ENGLISH)


def _report(language: str, english: Definitions) -> int:
    made = ordered(english, read(language))
    write(language, made)
    missing, stale = compare(english, made)
    print(f"{language}: {len(missing)} missing, {len(stale)} stale")
    for word, keys in (("missing", missing), ("stale", stale)):
        for key in keys:
            print(f"  {word}: {key}")
    return len(missing) + len(stale)


def _classes() -> list[Any]:
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    inprocess.start(host, base.prepare_base(RUN / "locales", host))
    from esd_pack.nodes.extension import EsdExtension

    return list(asyncio.run(EsdExtension().get_node_list()))
