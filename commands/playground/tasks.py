"""What may be erased from the playground, and the prompts by which that is judged (standard library only)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from . import world
from .world import Judged, Subject

CARRIERS = tuple(name for name in world.OBJECTS[30:] if " " not in name)
"""Objects that a style is judged on; no context of its training has them."""

_PHRASES = {
    "object": (
        "a picture of a {}",
        "{} in ink style on a blue background",
        "{} in sepia style",
        "{} on a pink background",
    ),
    "attribute": ("{} in ink style", "{} in sepia style", "{} on a blue background", "{} on a pink background"),
}


@dataclass(frozen=True)
class Task:
    """A concept to erase, and the subject whose pictures show it: for an attribute, what it is erased from."""

    concept: str
    subject: Subject
    erase_from: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """The Concept node's fields that count."""
        return {"concept": self.concept, "erase_from": self.erase_from}


def find_task(concept: str) -> Task:
    """Return the task of erasing a subject by its own words; raises ValueError for what is not drawn."""
    subject = world.find_subject(concept)
    return Task(subject.prompt, subject)


def erased_from(concept: str, whole: str) -> Task:
    """Return the task of erasing an attribute from an object; raises ValueError where its name does not say it."""
    subject, concept = world.find_subject(whole), " ".join(concept.split())
    if subject.head != "object" or not concept or concept not in subject.name or concept == subject.name:
        raise ValueError(f'"{concept}" is not part of "{whole}": try sunglasses from "face wearing sunglasses".')
    return Task(concept, subject, subject.name)


def own_prompts(tasks: Sequence[Task], count: int) -> list[Judged]:
    """Return about `count` prompts in all, each task's own words."""
    return [judged for task in tasks for judged in world.prompts_for(task.subject, max(1, count // len(tasks)))]


def unseen_prompts(tasks: Sequence[Task], count: int) -> list[Judged]:
    """Return about `count` prompts in all that show what is erased among words that no training has."""
    return [judged for task in tasks for judged in _unseen(task, max(2, count // len(tasks)))]


def _unseen(task: Task, count: int) -> Iterator[Judged]:
    head, name = task.subject.head, task.subject.name
    if head == "object":
        phrases = _PHRASES["attribute" if task.erase_from else "object"]
        yield from (Judged(phrases[i % len(phrases)].format(name), head, name, name) for i in range(count))
    else:
        yield from (
            replace(judged, object_name=carrier)
            for carrier in (CARRIERS[i % len(CARRIERS)] for i in range(count))
            for judged in [Judged(world.prompt_with(task.subject, carrier), head, name)]
        )


def prompts_for_others(tasks: Sequence[Task], rounds: int = 1) -> list[Judged]:
    """Return prompts for everything of the same heads that is not erased, about one for each object and round."""
    erased = {task.subject for task in tasks}
    first = {task.subject.head: task.subject for task in reversed(tasks)}
    others = [judged for subject in first.values() for judged in world.prompts_for_others(subject, rounds)]
    return [judged for judged in others if Subject(judged.head, judged.name) not in erased]
