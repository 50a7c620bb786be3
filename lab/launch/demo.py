"""`run.py demo`: erase a concept in a real ComfyUI, judge the result, and say where everything lies."""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.playground import tasks, world
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
SIZE = {"width": 64, "height": 64}
ONE_ROW_EACH = {"seeds_per_prompt": 1, "strengths": "1", "difference_gain": 0.0}
FIRST_SEED = 1000


@dataclass(frozen=True)
class Rates:
    """What the judge found: what is erased by its own words and among words never trained, and everything else.

    `objects` counts the objects in pictures of styles and backgrounds.
    """

    erased: Rate
    unseen: Rate
    kept: Rate
    objects: Rate | None = None
    each: Mapping[str, Rate] = field(default_factory=dict)
    """By concept, where there are several."""


@dataclass(frozen=True)
class Outcome:
    """The verdict of one demo, and where its files lie."""

    concepts: Sequence[str]
    rates: Rates
    paths: dict[str, str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What `--json` writes: rates between 0 and 1."""
        found = self.rates
        return {
            "erased": {"concept": ", ".join(self.concepts), **asdict(found.erased)},
            **({"each": {name: asdict(rate) for name, rate in found.each.items()}} if found.each else {}),
            "unseen": asdict(found.unseen),
            "kept": asdict(found.kept),
            "paths": self.paths,
            "seconds": round(self.seconds, 1),
        }


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
    erasing, line = options.erase, ProgressLine()
    prompt = erasing_prompt(server, options)
    groups = judged_prompts(erasing, options.pictures)
    try:
        saved = server.run(prompt, PromptProgress(line, prompt))
        every = [judged for group in groups.values() for judged in group]
        drawing, nodes = judging_prompt(prompt, every, world.MODELS[options.world])
        drawn = server.run(drawing, PromptProgress(line, drawing))
        line.end()
    except BaseException:
        line.abandon()
        raise
    verdicts = [_judge(server, drawn.outputs[node]["images"]) for node in nodes]
    found = rates(groups, verdicts)
    return Outcome(
        [task.concept for task in erasing], found, paths(server, prompt, saved.outputs), time.monotonic() - start
    )


def erasing_prompt(server: Server, options: argparse.Namespace) -> workflow.Prompt:
    """The shipped workflow as a prompt, with the options set in it."""
    prompt = workflow.to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
    _set_concepts(prompt, options.erase)
    _set_model(prompt, world.MODELS[options.world])
    if options.erase != [tasks.find_task("cat")]:
        workflow.set_input(prompt, "ESDBeforeAfter", "prompts", "\n".join(pictured_prompts(options.erase)))
    for name in ("method", "steps", "seed"):
        if getattr(options, name) is not None:
            workflow.set_input(prompt, "ESDErase", name, getattr(options, name))
    return prompt


def _set_model(prompt: workflow.Prompt, model: world.Model) -> None:
    """Erase from this checkpoint, and draw the picture as it is sampled."""
    workflow.set_input(prompt, "ESDLoadModel", "ckpt_name", model.checkpoint.name)
    for name, value in _sampling(model).items():
        workflow.set_input(prompt, "ESDBeforeAfter", name, value)


def _sampling(model: world.Model) -> dict[str, Any]:
    return {"cfg": model.cfg, "sampler_name": model.sampler, "scheduler": model.scheduler}


def _set_concepts(prompt: workflow.Prompt, erasing: Sequence[tasks.Task]) -> None:
    """Let the workflow's Concept node name the last concept, behind a chain of the others."""
    (last,) = workflow.nodes_of(prompt, "ESDConcept")
    *before, own = erasing
    previous: dict[str, Any] = {}
    for place, task in enumerate(before):
        inputs = {**prompt[last]["inputs"], **task.inputs, **previous}
        prompt[f"concept {place}"] = {**prompt[last], "inputs": inputs}
        previous = {"previous": [f"concept {place}", 0]}
    prompt[last]["inputs"] |= {**own.inputs, **previous}


def pictured_prompts(erasing: Sequence[tasks.Task]) -> list[str]:
    """Eight prompts for the before/after picture: what is erased, also in other words, then what should stay."""
    own = [judged.prompt for judged in tasks.own_prompts(erasing, len(erasing))]
    own += [judged.prompt for judged in tasks.unseen_prompts(erasing, 4)]
    near = [name for task in erasing for name in world.NEAR_NEIGHBOURS.get(task.subject.name, ())]
    gone = {task.subject.name for task in erasing}
    others = [name for name in (*near, "dog", "apple", "rocket", "ghost", "key") if name not in gone]
    styles = [judged.prompt for judged in tasks.prompts_for_others(erasing) if judged.head != "object"]
    stay = [*styles[:: max(1, len(styles) // 4)], *dict.fromkeys(others)]
    return list(dict.fromkeys(own))[:4] + stay[:4]


def judged_prompts(erasing: Sequence[tasks.Task], pictures: int) -> dict[str, list[world.Judged]]:
    """What is drawn for the judge: what is erased `pictures` times, a quarter in other words, and the others."""
    rounds = max(1, round(pictures / len(world.OBJECTS)))
    return {
        "erased": tasks.own_prompts(erasing, pictures),
        "unseen": tasks.unseen_prompts(erasing, max(1, pictures // 4)),
        "kept": tasks.prompts_for_others(erasing, rounds),
    }


def judging_prompt(
    prompt: workflow.Prompt, expected: list[world.Judged], model: world.Model
) -> tuple[workflow.Prompt, tuple[str, str]]:
    """A prompt that draws for the judge from the same erased model, and its SaveImage nodes, before and after."""
    shown = workflow.nodes_of(prompt, "ESDBeforeAfter")[0]
    drawing = workflow.upstream(prompt, shown)
    inputs = copy.deepcopy(prompt[shown]["inputs"]) | _sampling(model) | SIZE | ONE_ROW_EACH
    inputs |= {"steps": model.steps}
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


def rates(groups: Mapping[str, Sequence[world.Judged]], verdicts: Sequence[Verdict]) -> Rates:
    """What was found before and after in the pictures of each group, which were drawn in their order."""
    rows = [(group, judged) for group, all_judged in groups.items() for judged in all_judged]
    hits = [verdict.hits([judged for _, judged in rows]) for verdict in verdicts]
    objects = [[v.objects[i] == judged.object_name for i, (_, judged) in enumerate(rows)] for v in verdicts]
    places = {name: [i for i, (group, _) in enumerate(rows) if group == name] for name in groups}
    carried = [i for i, (_, judged) in enumerate(rows) if judged.head != "object" and judged.object_name]
    own = {rows[i][1].prompt: rows[i][1] for i in places["erased"]}
    each = {prompt: [i for i in places["erased"] if rows[i][1].prompt == prompt] for prompt in own}
    return Rates(
        **{name: _rate(hits, chosen) for name, chosen in places.items()},
        objects=_rate(objects, carried) if carried else None,
        each={prompt: _rate(hits, chosen) for prompt, chosen in each.items()} if len(each) > 1 else {},
    )


def _rate(hits: Sequence[Sequence[bool]], chosen: Sequence[int]) -> Rate:
    before, after = (sum(found[i] for i in chosen) / max(1, len(chosen)) for found in hits)
    return Rate(before, after, len(chosen))


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
    found = outcome.rates
    named = f'"{outcome.concepts[0]}"' if len(outcome.concepts) == 1 else f"{len(outcome.concepts)} concepts"
    lines = [
        f"{named} found by the judge:  {found.erased}",
        *(f'  "{prompt}":  {rate}' for prompt, rate in found.each.items()),
        f"  in prompts never trained:  {found.unseen}",
        f"the others found by the judge:  {found.kept}",
        *([f"  objects in pictures of styles still found:  {found.objects}"] if found.objects else []),
        *(f"  {what:<11} {where}" for what, where in outcome.paths.items()),
        f"This took {outcome.seconds:.0f} s. To do the same in the browser: python run.py serve",
    ]
    return "\n".join(lines)
