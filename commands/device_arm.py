"""The check's run in the server: erase on its device, save the difference, draw before and after, and judge."""

from __future__ import annotations

import io
import logging
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import talk
from .graph import new_node
from .places import FOLDER, Leavings, metadata_of
from .playground.world import CHECKPOINT
from .rates import counted
from .recipe import CONCEPT, DRAWING, SEED, SIZE, Recipe

if TYPE_CHECKING:
    from torch import Tensor

Json = dict[str, Any]

log = logging.getLogger("esd.check")


@dataclass
class Arm:
    """What a run in the server gave: the change of each weight, its metadata, and figures of the run."""

    differences: dict[str, Tensor] = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    run: Json
    judged: Json | None


def erase(server: talk.Address, recipe: Recipe, leavings: Leavings, memory: Memory, precision: str = "auto") -> Arm:
    """Erase in the server; where the precision is left to the host, pictures are drawn and judged too.

    Raises ServerError where the server refuses the prompt or a node fails.
    """
    prompt = graph(server.get("/object_info"), recipe, precision)
    follower = Follower(server, memory)
    prompt_id = talk.queue(server, prompt, follower.workflow)
    outputs = talk.follow(server, prompt_id, follower)
    follower.end()
    (file,) = outputs["save"]["esd_files"]
    leavings.files.append(file)
    data = server.view(file)
    judged = _judged(server, recipe, outputs) if "before" in outputs else None
    return Arm(_tensors(data), metadata_of(io.BytesIO(data)), follower.run, judged)


def graph(info: Json, recipe: Recipe, precision: str) -> Json:
    """Return the prompt; pictures are drawn in the host's own choice of precision alone."""
    anew = random.randrange(10**4, 10**5)  # noqa: S311 - more than the steps: none is kept, and nothing is cached
    run = {"start": "start over", "preview_every": 0, "snapshot_every": anew, **recipe.settings}
    links = {"model": ["load", 0], "clip": ["load", 1], "concepts": ["concept", 0], "settings": ["settings", 0]}
    prompt = {
        "load": new_node(info, "ESDLoadModel", ckpt_name=CHECKPOINT.name),
        "concept": new_node(info, "ESDConcept", concept=CONCEPT),
        "settings": new_node(info, "ESDEraseSettings", precision=precision, closed_form=False, **SIZE),
        "erase": new_node(info, "ESDErase", **run, **links),
        "save": new_node(info, "ESDSaveErasure", weights=["erase", 1], filename_prefix=f"{FOLDER}/difference"),
    }
    return prompt | (_drawing(info, recipe) if precision == "auto" else {})


def _drawing(info: Json, recipe: Recipe) -> Json:
    models = {"model_before": ["load", 0], "model_after": ["erase", 0], "clip": ["load", 1], "vae": ["load", 2]}
    words = {"prompts": "\n".join(each.prompt for each in recipe.judged()), "seed": SEED}
    return {
        "drawn": new_node(info, "ESDBeforeAfter", **models, **words, **DRAWING),
        "before": new_node(info, "PreviewImage", images=["drawn", 1]),  # temporary: the host removes them
        "after": new_node(info, "PreviewImage", images=["drawn", 2]),
    }


class Memory:
    """The free memory of the server's device: before, the least that was seen, and after."""

    def __init__(self, server: talk.Address) -> None:
        """Look for the first time."""
        self.server = server
        self.before = self.after = self.least = self.look()

    def look(self) -> Json:
        """Return the device as the server reports it now."""
        return dict(self.server.get("/system_stats")["devices"][0])

    def again(self) -> None:
        """Look once more."""
        self.after = self.look()
        self.least = min(self.least, self.after, key=lambda each: each["vram_free"])

    def as_json(self) -> Json:
        """Bytes by name."""
        names = ("vram_free", "torch_vram_total", "torch_vram_free")
        looks = {"before": self.before, "least": self.least, "after": self.after}
        return {when: {name: look.get(name) for name in names} for when, look in looks.items()}


class Follower:
    """Hears of a run from the pack's own route while it is on, and says on the terminal how far it is."""

    def __init__(self, server: talk.Address, memory: Memory) -> None:
        """Know the run by the id of its graph."""
        self.server, self.memory, self.workflow = server, memory, f"esd-check-{uuid.uuid4().hex}"
        self.run: Json = {}
        self.start = self.told = time.monotonic()

    def __call__(self) -> None:
        """Ask once."""
        found = [run for run in self.server.get("/esd/runs")["runs"] if run["workflow"] == self.workflow]
        if found:
            names = ("device", "stored", "precision", "memory_foretold", "memory_peak", "seconds", "message", "step")
            self.run = {name: found[0].get(name) for name in names}
        self.memory.again()
        if time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            log.info("    %.0f s, %s", self.told - self.start, self._stage(found))

    def end(self) -> None:
        """Ask for the last time."""
        self()
        if not self.run:
            raise talk.ServerError(
                "ComfyUI does not know of the run that it has just made: restart it, and check again."
            )
        self.run["whole_seconds"] = round(time.monotonic() - self.start, 1)

    def _stage(self, found: list[Json]) -> str:
        if not found:
            return "waiting or loading"
        steps = f"step {found[0]['step']} of {found[0]['total']}"
        return steps if found[0]["state"] == "running" else "drawing before and after"


def _tensors(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return dict(load(data))


def _judged(server: talk.Address, recipe: Recipe, outputs: Json) -> Json:
    """How often the judge finds what a prompt names, before and after."""
    import torch

    from commands.playground.judge import load_judge

    judge, expected, own = load_judge(), recipe.judged(), recipe.pictures
    verdicts = [
        judge.judge(torch.stack([_picture(server.view(file)) for file in outputs[when]["images"]]))
        for when in ("before", "after")
    ]
    found = counted({"erased": expected[:own], "kept": expected[own:]}, *verdicts)
    return {
        role: {"before": change.before.found, "after": change.after.found, "of": change.after.n}
        for role, change in found.items()
    }


def _picture(data: bytes) -> Tensor:
    import numpy
    import torch
    from PIL import Image

    return torch.from_numpy(numpy.array(Image.open(io.BytesIO(data)).convert("RGB"))).float() / 255
