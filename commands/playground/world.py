"""What the playground checkpoint draws, and the prompts that make it do so (standard library only)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_FILES = FOLDER.parents[1] / "workflows" / "models"
JUDGE = FOLDER / "judge.safetensors"
_NAMES = json.loads((FOLDER / "world.json").read_text(encoding="utf-8"))

OBJECTS: tuple[str, ...] = tuple(_NAMES["objects"])
STYLES: tuple[str, ...] = tuple(_NAMES["styles"])
BACKGROUNDS: tuple[str, ...] = tuple(_NAMES["backgrounds"])
HEADS: dict[str, tuple[str, ...]] = {"object": OBJECTS, "style": STYLES, "background": BACKGROUNDS}

NEAR_NEIGHBOURS: dict[str, tuple[str, ...]] = {name: tuple(near) for name, near in _NAMES["near_neighbours"].items()}
"""The objects that look most alike: what an erasure spills over to first."""


@dataclass(frozen=True)
class Model:
    """A checkpoint that draws this world, and how it is sampled: the stock KSampler's choices."""

    checkpoint: Path
    sampler: str
    scheduler: str
    cfg: float
    steps: int = 10
    """Of each picture that is judged."""


MODELS = {
    "sd1": Model(_FILES / "emoji-world.ckpt", "ddim", "ddim_uniform", 3.0),
    "sd35": Model(_FILES / "emoji-world-sd35.ckpt", "euler", "sgm_uniform", 4.0),
}
"""By layout: Stable Diffusion 1's UNet, and Stable Diffusion 3.5's transformer."""

CHECKPOINT = MODELS["sd1"].checkpoint


@dataclass(frozen=True)
class Judged:
    """One prompt, the name that the head of the judge should give its picture, and the object it shows."""

    prompt: str
    head: str
    name: str
    object_name: str = ""


@dataclass(frozen=True)
class Subject:
    """Something that the playground can draw: which head of the judge sees it, and under which name."""

    head: str
    name: str

    @property
    def prompt(self) -> str:
        """The words that stand for it alone."""
        return {"object": self.name, "style": f"{self.name} style", "background": f"{self.name} background"}[self.head]


def object_prompt(name: str, style: str = "", background: str = "") -> str:
    """The prompt for an object, with a style and a background where they are given."""
    return name + (f" in {style} style" if style else "") + (f" on a {background} background" if background else "")


def find_subject(words: str) -> Subject:
    """The subject that the words name ("cat", "ink style", "blue background"); raises ValueError for any other."""
    words = " ".join(words.split())
    for head, names in HEADS.items():
        for name in names:
            if words in (name, Subject(head, name).prompt):
                return Subject(head, name)
    styles = ", ".join(f"{name} style" for name in STYLES)
    raise ValueError(f'The playground does not draw "{words}": name one of {", ".join(OBJECTS)}, or one of {styles}.')


def prompt_with(subject: Subject, carrier: str) -> str:
    """The prompt that shows the subject: itself if it is an object, else the carrier object wearing it."""
    if subject.head == "object":
        return subject.name
    return object_prompt(carrier, **{subject.head: subject.name})


def prompts_for(subject: Subject, count: int) -> list[Judged]:
    """`count` times the subject's own prompt: the words that are erased."""
    shown = subject.name if subject.head == "object" else ""
    return [Judged(subject.prompt, subject.head, subject.name, shown)] * count


def carried_prompts(subject: Subject, count: int) -> list[Judged]:
    """`count` prompts that ask for the subject with an object: a style or a background goes through them in turn."""
    carriers = [subject.name if subject.head == "object" else OBJECTS[i % len(OBJECTS)] for i in range(count)]
    return [Judged(prompt_with(subject, carrier), subject.head, subject.name, carrier) for carrier in carriers]


def prompts_for_others(subject: Subject, rounds: int = 2) -> list[Judged]:
    """The same for every other subject of the head, about two prompts for each object of the world in all."""
    others = [Subject(subject.head, name) for name in HEADS[subject.head] if name != subject.name]
    each = max(1, rounds * (len(OBJECTS) - 1) // len(others))
    return [judged for other in others for judged in carried_prompts(other, each)]


@dataclass(frozen=True)
class Rate:
    """How often the judge found what was asked for, before and after, in `n` pictures each."""

    before: float
    after: float
    n: int

    def __str__(self) -> str:
        counts = (f"{round(rate * self.n)} of {self.n} ({100 * rate:.0f} %)" for rate in (self.before, self.after))
        return "before {}, after {}".format(*counts)
