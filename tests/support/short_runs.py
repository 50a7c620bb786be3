"""Short runs of the Erase node, queued in the host of this process."""

from __future__ import annotations

import importlib
import json
from typing import Any

from support.graphs import slot

NAME = "emoji-world.ckpt"


STEPS = 6


QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "samples_per_trajectory": 2,
    "trajectory_batch": 2,
    "buffer_size": 4,
    "contexts": "own words",
    "closed_form": False,
}


INPUTS = {
    "steps": STEPS,
    "learning_rate": 3e-5,
    "preview_every": 0,
    "snapshot_every": 0,
    "start": "reuse or resume",
    "stop": "after all steps",
}


class EventRecorder:
    """What the page hears, in the place of the server's messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.at_step: Any = None

    def send_sync(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        """Keep what is said of runs, and let the test act at a step."""
        if event == "esd.run":
            self.messages.append(json.loads(json.dumps(data)))
            if self.at_step:
                self.at_step(data)

    def losses(self) -> list[float]:
        """The whole curve, from the pieces that were sent."""
        curve: list[float] = []
        for message in self.messages:
            assert message["first"] <= len(curve)
            curve[message["first"] :] = message["losses"]
        return curve


def module(name: str) -> Any:
    """Return a module of nodes/host by its dotted name."""
    return importlib.import_module(f"esd_pack.nodes.host.{name}")


def erase(world, vae=False, keep="", settings=None, concept="cat", **inputs):
    g = world.graph()
    concepts = g.add("ESDConcept", concept=concept)
    more = {"vae": g.give(world.vae)} if vae else {}
    if keep:
        more["keep"] = g.add("ESDKeep", prompts=keep)
    run = g.add(
        "ESDErase",
        model=g.give(world.model),
        clip=g.give(world.clip),
        concepts=concepts,
        settings=g.add("ESDEraseSettings", **{**QUICK, **(settings or {})}),
        **{**INPUTS, **inputs},
        **more,
    )
    return g.take(model=run, weights=slot(run, 1), losses=slot(run, 2)).run()
