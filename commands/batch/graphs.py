"""The graph of each job in the API's form: what the page would queue, and what it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from esd_pack.esd.concepts import Keep
from esd_pack.esd.merge import SUM
from esd_pack.esd.settings import Settings

from .spec import Contexts, Evaluation, Wanted

Json = dict[str, Any]

DIALS = ("method", "steps", "learning_rate", "eta", "seed", "stop", "robustness")
NOT_SHOWN = frozenset({*DIALS, "eta_erase_from", "preset"})
"""Settings that ESD Erase Settings does not show."""

WATCHING = {"preview_every": 0, "snapshot_every": 50, "start": "reuse or resume"}
LOADED = {"model": 0, "clip": 1, "vae": 2}
PROMPT_FILE = {"file": "(none)", "file_role": "erased", "label_contains": "", "first_rows": 0, "guidance": "fixed"}


@dataclass
class Graph:
    """A prompt that grows, and which node makes which file."""

    folder: str
    """Below the output folder, where its files go."""
    nodes: Json = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """What it makes, with the number of the node that makes it."""

    def add(self, class_type: str, **inputs: Any) -> str:
        """Append a node, and return its number."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": class_type, "inputs": inputs}
        return number

    def load(self, model: str) -> Json:
        """Load a checkpoint, and return the links to its parts."""
        number = self.add("ESDLoadModel", ckpt_name=model)
        return {part: [number, place] for part, place in LOADED.items()}

    def saved(self, kind: str, class_type: str, **inputs: Any) -> None:
        """Append a node that writes a file."""
        name = kind.replace(" ", "_")
        self.files[kind] = self.add(class_type, filename_prefix=f"{self.folder}/{name}", **inputs)


@dataclass(frozen=True)
class Ending:
    """What follows on an erasure: evaluation and files."""

    evaluation: Evaluation | None
    keeps: tuple[Keep, ...]
    save: tuple[str, ...]


def training_graph(
    folder: str, model: str, concepts: Sequence[Wanted], keeps: Sequence[Keep], settings: Settings, ending: Ending
) -> Graph:
    """Load, erase, save and evaluate."""
    graph = Graph(folder)
    parts = graph.load(model)
    inputs = {name: value for name, value in asdict(settings).items() if name not in NOT_SHOWN}
    dials = {name: getattr(settings, name) for name in DIALS}
    links = {
        "model": parts["model"],
        "clip": parts["clip"],
        "concepts": _concepts(graph, concepts),
        **({"keep": _keeps(graph, keeps)} if keeps else {}),
        "settings": [graph.add("ESDEraseSettings", preset="custom", **inputs), 0],
    }
    erase = graph.add("ESDErase", **links, **dials, **WATCHING)
    _end(graph, parts, [erase, 0], [erase, 1], concepts, ending)
    return graph


def merging_graph(
    folder: str, model: str, files: Sequence[str], mode: str, concepts: Sequence[Wanted], ending: Ending
) -> Graph:
    """Load erasures by their names in the output folder's esd, merge, apply, save and evaluate."""
    graph = Graph(folder)
    parts = graph.load(model)
    loaded = [[graph.add("ESDLoadErasure", file=name, model=parts["model"]), 1] for name in files]
    previous: Json = {}
    for first in range(0, len(loaded), 4):
        names = ("weights", "weights_2", "weights_3", "weights_4")
        links = dict(zip(names, loaded[first : first + 4], strict=False))
        is_last = first + 4 >= len(loaded)  # the others only hand on what they have
        how = {"mode": mode, "clip": parts["clip"]} if is_last else {"mode": SUM}
        merged = graph.add("ESDMergeErasures", **how, **links, **previous)
        previous = {"previous": [merged, 1]}
    applied = graph.add("ESDApply", model=parts["model"], weights=[merged, 0], strength=1.0)
    _end(graph, parts, [applied, 0], [merged, 0], concepts, ending)
    return graph


def _concepts(graph: Graph, concepts: Sequence[Wanted]) -> list[Any]:
    rules: dict[Contexts, str] = {}
    previous: Json = {}
    for each in concepts:
        if each.contexts and each.contexts not in rules:
            rules[each.contexts] = graph.add("ESDContexts", **asdict(each.contexts))
        around: Json = {"contexts": [rules[each.contexts], 0]} if each.contexts else {}
        words = {name: getattr(each, name) for name in ("concept", "erase_from", "replace_with", "weight")}
        previous = {"previous": [graph.add("ESDConcept", **words, **previous, **around), 0]}
    return list(previous["previous"])


def _keeps(graph: Graph, keeps: Sequence[Keep]) -> list[Any]:
    previous: Json = {}
    for each in keeps:
        number = graph.add("ESDKeep", prompts="\n".join(each.prompts), weight=each.weight, **previous)
        previous = {"previous": [number, 0]}
    return list(previous["previous"])


def _end(
    graph: Graph, parts: Json, model: list[Any], weights: list[Any], concepts: Sequence[Wanted], ending: Ending
) -> None:
    """Save what is wanted, then evaluate."""
    for kind in ending.save:
        if kind == "checkpoint":
            given = {"model": model, "clip": parts["clip"], "vae": parts["vae"], "precision": "as source"}
            graph.saved(kind, "ESDSaveCheckpoint", weights=weights, **given)
        else:
            size = {"rank": 0, "energy": 0.99}
            graph.saved(kind, "ESDSaveErasure", weights=weights, format=kind, model=parts["model"], **size)
    if ending.evaluation:
        _evaluate(graph, parts, model, concepts, ending.evaluation, ending.keeps)


def _evaluate(
    graph: Graph,
    parts: Json,
    model: list[Any],
    concepts: Sequence[Wanted],
    wanted: Evaluation,
    keeps: Sequence[Keep],
) -> None:
    kept = wanted.kept or tuple(prompt for keep in keeps for prompt in keep.prompts)
    lines = {"erased": erased_lines(concepts, wanted), "kept": kept, "alternatives": wanted.alternatives}
    texts = {name: "\n".join(each) for name, each in lines.items()}
    prompts = graph.add("ESDPromptSet", **texts, **PROMPT_FILE)
    both = {"clip": parts["clip"], "vae": parts["vae"], "base_model": parts["model"]}
    if wanted.judge == "playground":
        judge = graph.add("ESDJudgePlayground")
    else:
        judge = graph.add("ESDJudgeBaseModel", **both, seed=wanted.seed)
    names = ("samples", "seed", "steps", "cfg", "sampler_name", "scheduler", "width", "height", "in_model")
    how = {name: getattr(wanted, name) for name in names}
    sockets = {"model": model, **both, "prompts": [prompts, 0], "judge": [judge, 0]}
    graph.files["evaluation"] = graph.add("ESDEvaluate", **sockets, **how, file_name=f"{graph.folder}/evaluation")
    graph.saved("picture", "SaveImage", images=[graph.files["evaluation"], 1])


def erased_lines(concepts: Sequence[Wanted], wanted: Evaluation) -> list[str]:
    """Return the lines of ESD Prompt Set: each template with each concept, and the label that is looked for."""
    return [_line(template, each.words) for each in concepts for template in wanted.erased]


def _line(template: str, words: str) -> str:
    line = template.replace("[concept]", words)
    return line if "->" in template else f"{line} -> {words}"
