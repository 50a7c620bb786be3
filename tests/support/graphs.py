"""Graphs queued in this process on the host's own executor; a test can hand objects in and take them out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

Link = list[Any]


class AnyType(str):
    """A link type that fits every socket."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        """Equal to all, as the host's check asks for inequality."""
        return False


class Given:
    """What a graph hands in; it goes with its graph."""

    def __init__(self, thing: Any) -> None:
        """Any object."""
        self.thing = thing


class GiveNode:
    """Puts an object of the test on a link, anew in every run."""

    things: WeakValueDictionary[str, Given] = WeakValueDictionary()
    FUNCTION, RETURN_TYPES = "give", (AnyType("*"),)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A key."""
        return {"required": {"key": ("STRING", {})}}

    @classmethod
    def IS_CHANGED(cls, key: str) -> float:
        """Never cached."""
        return float("nan")

    def give(self, key: str) -> tuple[Any]:
        """The object."""
        return (self.things[key].thing,)


class TakeNode:
    """Keeps what arrives on a link for the test."""

    things: dict[str, Any] = {}
    FUNCTION, RETURN_TYPES, OUTPUT_NODE = "take", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Anything, and a key."""
        return {"required": {"thing": (AnyType("*"), {}), "key": ("STRING", {})}}

    def take(self, thing: Any, key: str) -> dict[str, Any]:
        """Keep it."""
        self.things[key] = thing
        return {"ui": {}}


@dataclass(frozen=True)
class Outcome:
    """How a queued graph ended ("refused": before it ran), what it gave to the test, and what its nodes show."""

    ending: str
    message: str
    node_type: str
    taken: dict[str, Any] = field(repr=False)
    shown: dict[str, Any] = field(repr=False)
    executed: list[str] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        """What the graph gave under a key; the graph must have succeeded."""
        assert self.ending == "execution_success", self.message
        return self.taken[key]


class _Server:
    """The part of the server that the executor talks to."""

    def __init__(self) -> None:
        self.client_id = self.last_node_id = self.last_prompt_id = None
        self.sockets_metadata: dict[str, Any] = {}

    def send_sync(self, *message: Any) -> None:
        """Nobody listens."""


NODES = (
    "ESDLoadModel",
    "ESDConcept",
    "ESDContexts",
    "ESDKeep",
    "ESDErase",
    "ESDEraseSettings",
    "ESDApply",
    "ESDLoadErasure",
    "ESDErasureInfo",
    "ESDMergeErasures",
    "ESDSaveCheckpoint",
    "ESDSaveErasure",
    "ESDBeforeAfter",
    "ESDMeasure",
    "ESDAttack",
    "ESDPromptSet",
    "ESDJudgeBaseModel",
    "ESDJudgePrototypes",
    "ESDJudgeCLIP",
    "ESDJudgeFile",
    "ESDJudgePlayground",
    "ESDEvaluate",
    "ESDSampleSet",
    "ESDScore",
    "ESDCompareReports",
    "ESDSafeLatentDiffusion",
    "ESDUnifiedConceptEditing",
)
"""Every node of the pack."""


class Graph:
    """A prompt under construction: `add` nodes (what is left out has its default), then `run` it."""

    _numbers = itertools.count()

    def __init__(self, host_nodes: Any) -> None:
        """`host_nodes` is the host's module `nodes`, with this pack loaded."""
        self.classes, self.prompt, self.given = host_nodes.NODE_CLASS_MAPPINGS, {}, list[Given]()
        self.classes.update(TestGive=GiveNode, TestTake=TakeNode)

    def add(self, class_type: str, slot: int = 0, **inputs: Any) -> Link:
        """Add a node; returns the link from its output `slot` (another: `Graph.slot`)."""
        for name, spec in self.classes[class_type].INPUT_TYPES().get("required", {}).items():
            if name not in inputs and len(spec) > 1 and "default" in spec[1]:
                inputs[name] = spec[1]["default"]
        self.prompt[str(len(self.prompt) + 1)] = {"class_type": class_type, "inputs": inputs}
        return [str(len(self.prompt)), slot]

    def give(self, thing: Any) -> Link:
        """A link that carries an object of the test."""
        key = str(next(self._numbers))
        self.given.append(Given(thing))
        GiveNode.things[key] = self.given[-1]
        return self.add("TestGive", key=key)

    def take(self, **links: Link) -> Graph:
        """Keep what these links carry."""
        for key, link in links.items():
            self.add("TestTake", thing=link, key=key)
        return self

    def run(self) -> Outcome:
        """Queue it as the host does, with a fresh cache, and return when it has ended."""
        import execution

        executor = execution.PromptExecutor(
            _Server(), cache_type=execution.CacheType.CLASSIC, cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        )
        TakeNode.things.clear()
        accepted, problem, outputs, node_errors = asyncio.run(execution.validate_prompt("id", self.prompt, None))
        if not accepted:
            (faulty,) = node_errors.values()
            message = faulty["errors"][0]["details"].partition(" - ")[2] or str(problem)
            return Outcome("refused", message, faulty["class_type"], {}, {}, [])
        executor.execute(self.prompt, "id", {"client_id": "test"}, outputs)
        ending, data = executor.status_messages[-1]
        taken = dict(TakeNode.things)
        TakeNode.things.clear()
        return Outcome(
            ending,
            data.get("exception_message", "").strip(),
            data.get("node_type", ""),
            taken,
            executor.history_result["outputs"],
            data.get("executed", []),
        )


class CachedTextEncoder:
    """A CLIP that encodes each prompt once: the real one's answers, kept, as encoding is most of a short run."""

    def __init__(self, clip: Any) -> None:
        """`clip` is the real one."""
        self.clip, self.answers = clip, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        """All else is the real one's."""
        return getattr(self.clip, name)

    def tokenize(self, prompt: str) -> str:
        """The prompt itself."""
        return prompt

    def encode_from_tokens_scheduled(self, prompt: str) -> list[Any]:
        """What the real one makes of it."""
        if prompt not in self.answers:
            self.answers[prompt] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))
        return [[tensor, dict(more)] for tensor, more in self.answers[prompt]]


def slot(link: Link, number: int) -> Link:
    """Another output of the same node."""
    return [link[0], number]


Tick = Callable[[int, int], None]
