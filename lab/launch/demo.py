"""`run.py demo`: erase a concept in a real ComfyUI, judge the result, and say where everything lies."""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import time
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.playground import world
from commands.playground.world import Rate
from lab.paths import ROOT, RUN

from ..progress import ProgressLine, PromptProgress
from . import workflow
from .server import Server, device_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from commands.playground.judge import Verdict

WORKFLOW = ROOT / "workflows" / "erase_an_object.json"
BASE = RUN / "base"
SAMPLING = {"steps": 10, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform", "width": 64, "height": 64}
ONE_ROW_EACH = {"seeds_per_prompt": 1, "strengths": "1", "difference_gain": 0.0}
FIRST_SEED = 1000


@dataclass(frozen=True)
class Outcome:
    """The verdict of one demo, and where its files lie."""

    concept: str
    erased: Rate
    kept: Rate
    objects: Rate | None
    paths: dict[str, str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What `--json` writes: rates between 0 and 1."""
        erased = {"concept": self.concept, **asdict(self.erased)}
        return {"erased": erased, "kept": asdict(self.kept), "paths": self.paths, "seconds": round(self.seconds, 1)}


def main(options: argparse.Namespace) -> None:
    """Run the demo and print its outcome; raises ServerError or ValueError where something fails."""
    start = time.monotonic()
    with started(BASE) as server:
        outcome = run(server, options, start)
    print("\n" + report(outcome))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(outcome.as_json(), indent=2) + "\n", encoding="utf-8")


def started(base: Path, arguments: list[str] | None = None) -> Server:
    """A server that answers, with a word on the terminal while it starts."""
    line = ProgressLine()
    line.begin("Starting ComfyUI")
    arguments = device_arguments() if arguments is None else arguments
    server = Server(Path(os.environ["COMFYUI_PATH"]), base, arguments=arguments)
    try:
        server.wait()
    except BaseException:
        line.abandon()
        server.stop()
        raise
    line.end()
    return server


def run(server: Server, options: argparse.Namespace, start: float) -> Outcome:
    """Queue the workflow, then the pictures to judge; the training's result comes from the server's cache."""
    subject, line = options.erase, ProgressLine()
    prompt = erasing_prompt(server, options)
    try:
        saved = server.run(prompt, PromptProgress(line, prompt))
        expected = judged_prompts(subject, options.pictures)
        drawing, nodes = judging_prompt(prompt, expected)
        drawn = server.run(drawing, PromptProgress(line, drawing))
        line.end()
    except BaseException:
        line.abandon()
        raise
    verdicts = [_judge(server, drawn.outputs[node]["images"]) for node in nodes]
    erased, kept, objects = rates(subject, expected, verdicts)
    return Outcome(
        subject.prompt, erased, kept, objects, paths(server, prompt, saved.outputs), time.monotonic() - start
    )


def erasing_prompt(server: Server, options: argparse.Namespace) -> workflow.Prompt:
    """The shipped workflow as a prompt, with the options set in it."""
    prompt = workflow.to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
    concept = prompt[workflow.nodes_of(prompt, "ESDConcept")[0]]["inputs"]
    if concept["concept"] != options.erase.prompt:
        workflow.set_input(prompt, "ESDConcept", "concept", options.erase.prompt)
        workflow.set_input(prompt, "ESDBeforeAfter", "prompts", "\n".join(pictured_prompts(options.erase)))
    for name in ("method", "steps", "seed"):
        if getattr(options, name) is not None:
            workflow.set_input(prompt, "ESDErase", name, getattr(options, name))
    return prompt


def pictured_prompts(subject: world.Subject) -> list[str]:
    """Eight prompts for the before/after picture: the subject in several ways, then what should stay."""
    if subject.head == "object":
        name = subject.name
        own = [name, name, world.object_prompt(name, style="ink"), world.object_prompt(name, background="blue")]
        others = [*world.NEAR_NEIGHBOURS.get(name, ()), "dog", "apple", "rocket", "ghost", "key"]
        return own + [other for other in dict.fromkeys(others) if other != name][:4]
    own = [judged.prompt for judged in world.prompts_for(subject, 4)]
    groups = groupby(world.prompts_for_others(subject), lambda judged: judged.name)
    return own + [list(group)[i].prompt for i, (_, group) in enumerate(groups)][:4]


def judged_prompts(subject: world.Subject, pictures: int) -> list[world.Judged]:
    """What is drawn for the judge: the erased subject `pictures` times, then the others, about as often in all."""
    rounds = max(1, round(pictures / len(world.OBJECTS)))
    return world.prompts_for(subject, pictures) + world.prompts_for_others(subject, rounds)


def judging_prompt(prompt: workflow.Prompt, expected: list[world.Judged]) -> tuple[workflow.Prompt, tuple[str, str]]:
    """A prompt that draws for the judge from the same erased model, and its SaveImage nodes, before and after."""
    shown = workflow.nodes_of(prompt, "ESDBeforeAfter")[0]
    drawing = workflow.upstream(prompt, shown)
    inputs = copy.deepcopy(prompt[shown]["inputs"]) | SAMPLING | ONE_ROW_EACH
    inputs |= {"prompts": "\n".join(judged.prompt for judged in expected), "seed": FIRST_SEED}
    drawing[shown]["inputs"] = inputs
    for slot, name in enumerate(("before", "after"), start=1):
        saving = {"images": [shown, slot], "filename_prefix": f"esd/judged/{name}"}
        drawing[name] = {"class_type": "SaveImage", "inputs": saving}
    return drawing, ("before", "after")


def _judge(server: Server, files: list[dict[str, Any]]) -> Verdict:
    import torch

    from commands.playground.judge import load_judge

    return load_judge().judge(torch.stack([_picture(server.view(file)) for file in files]))


def _picture(data: bytes) -> Tensor:
    import numpy
    import torch
    from PIL import Image

    return torch.from_numpy(numpy.array(Image.open(io.BytesIO(data)).convert("RGB"))).float() / 255


def rates(
    subject: world.Subject, expected: list[world.Judged], verdicts: list[Verdict]
) -> tuple[Rate, Rate, Rate | None]:
    """The rates of the erased subject, of the others, and of the objects drawn where it is not one itself."""
    own = [i for i, judged in enumerate(expected) if judged.name == subject.name]
    others = [i for i, judged in enumerate(expected) if judged.name != subject.name]
    erased, kept = (_rate(chosen, verdicts, subject.head, [j.name for j in expected]) for chosen in (own, others))
    if subject.head == "object":
        return erased, kept, None
    with_object = [i for i in own + others if expected[i].object_name]
    return erased, kept, _rate(with_object, verdicts, "object", [judged.object_name for judged in expected])


def _rate(chosen: list[int], verdicts: list[Verdict], head: str, names: list[str]) -> Rate:
    found = [sum(verdict.names(head)[i] == names[i] for i in chosen) / max(1, len(chosen)) for verdict in verdicts]
    return Rate(found[0], found[1], len(chosen))


def paths(server: Server, prompt: workflow.Prompt, outputs: dict[str, Any]) -> dict[str, str]:
    """Where the checkpoint, the weights and the before/after picture lie."""
    return {
        "checkpoint": _saved_by(server, prompt, outputs, "ESDSaveCheckpoint", "esd_files"),
        "weights": _saved_by(server, prompt, outputs, "ESDSaveErasure", "esd_files"),
        "picture": _saved_by(server, prompt, outputs, "SaveImage", "images"),
    }


def _saved_by(server: Server, prompt: workflow.Prompt, outputs: dict[str, Any], class_type: str, key: str) -> str:
    for node_id in workflow.nodes_of(prompt, class_type):
        for file in outputs.get(node_id, {}).get(key, []):
            return str(server.path_of(file).resolve())
    raise ValueError(f"{class_type} reported no saved file: update ComfyUI, or run the command again.")


def report(outcome: Outcome) -> str:
    """What the demo prints at its end."""
    objects = [f"  objects in these pictures still found: {outcome.objects}"] if outcome.objects else []
    return "\n".join(
        [
            f'"{outcome.concept}" found by the judge:  {outcome.erased}',
            f"the others found by the judge:  {outcome.kept}",
            *objects,
            f"  checkpoint  {outcome.paths['checkpoint']}",
            f"  weights     {outcome.paths['weights']}",
            f"  picture     {outcome.paths['picture']}",
            f"This took {outcome.seconds:.0f} s. To do the same in the browser: python run.py serve",
        ]
    )
