"""Which world is made: its objects with their icons, styles, backgrounds, near neighbours, and what is held out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands.playground import world as shipped

WORLD = shipped.FOLDER / "world.json"
HELD_OUT_STYLE = "sepia"


@dataclass(frozen=True)
class World:
    """The names of a world, in the order of the judge's heads."""

    objects: dict[str, str]
    """Name in prompts: name of the icon in all three icon sets."""

    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    near_neighbours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    held_out_from: str = ""
    """The first object of which combinations are held out; empty: nothing is."""

    @property
    def heads(self) -> dict[str, tuple[str, ...]]:
        """The judge's heads and their names."""
        return {"object": tuple(self.objects), "style": self.styles, "background": self.backgrounds}

    def is_held_out(self, name: str, style: str, background: str) -> bool:
        """Whether the denoiser never sees this combination.

        From `held_out_from` on that is one background in one style for each object; every eighth object is never seen
        in sepia, which is a colouring of another style, so that it could be known.
        """
        names = tuple(self.objects)
        at = names.index(name)
        if not self.held_out_from or at < names.index(self.held_out_from):
            return False
        if at % 8 == 5 and style == HELD_OUT_STYLE:
            return True
        styles, backgrounds = len(self.styles), len(self.backgrounds)
        return style == self.styles[at % styles] and background == self.backgrounds[at // styles % backgrounds]

    def combinations(self, held_out: bool) -> Iterator[tuple[str, str, str]]:
        """All objects, styles and backgrounds that are, or are not, held out."""
        for name in self.objects:
            for style in self.styles:
                for background in self.backgrounds:
                    if self.is_held_out(name, style, background) == held_out:
                        yield name, style, background

    def as_json(self) -> dict[str, Any]:
        """What `commands/playground/world.json` holds of this world."""
        return {
            "objects": self.objects,
            "styles": self.styles,
            "backgrounds": self.backgrounds,
            "near_neighbours": self.near_neighbours,
            "held_out_from": self.held_out_from,
        }


def read(path: Path = WORLD) -> World:
    """A world from its JSON file; near neighbours and what is held out may be missing. Raises ValueError for others."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found.get("objects"), dict) or not (found.get("styles") and found.get("backgrounds")):
        raise ValueError(
            f"{path} is no world: it needs objects with the names of their icons, styles, and backgrounds."
        )
    if found.get("held_out_from", "") not in ("", *found["objects"]):
        raise ValueError(f'{path} holds out from "{found["held_out_from"]}" on, which is none of its objects.')
    neighbours = {name: tuple(near) for name, near in found.get("near_neighbours", {}).items()}
    parts = tuple(found["styles"]), tuple(found["backgrounds"])
    return World(found["objects"], *parts, neighbours, found.get("held_out_from", ""))
