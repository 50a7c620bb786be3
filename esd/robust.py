"""Training against attacks, and keeps that are drawn by how far they have drifted.

At each step free tokens beside the concept's prompt, and others beside the prompt without it, take a few steps of Adam
towards what the base answered under the concept (esd/slots.py); the student then learns ESD's target under them too:

    loss = 1/2 |eps_student(c) - target|^2 + 1/2 |eps_student(c, A) - target|^2 + |keeps|^2

The tokens are Receler's (Huang et al., ECCV 2024), whose start in closed form is RECE's (Gong et al., ECCV 2024); keeps
by the size of their drift follow the adversarial choice of Bui et al. ("Erasing Undesirable Concepts ... with
Adversarial Preservation", NeurIPS 2024) without its search.  Putting them together is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .closed_form import COMMON_WORDS
from .concepts import NULL_PROMPT, Concept, Keep
from .denoiser import Condition, Denoiser, batched, predict
from .examples import Example
from .random_streams import ATTACKING, stream_generator
from .settings import LIGHT, STRONG, WHEN_GONE, Settings
from .slots import Slots, move, open_slots

WARM_UP = 5
"""A run of all steps begins to attack after one part in so many."""

APART = 0.5
"""How much of a new attack's tokens is chance."""


@dataclass(frozen=True)
class Level:
    """How much is done: steps of each attack a training step, steps against attacks, steps between new attacks.

    `kept` is how many common words near the concepts are kept.
    """

    moves: int
    steps: int
    afresh: int
    kept: int


LEVELS = {LIGHT: Level(1, 60, 20, 8), STRONG: Level(2, 200, 20, 12)}


def level_of(settings: Settings) -> Level | None:
    """Return what the settings ask for; none where robustness is off."""
    return LEVELS.get(settings.robustness)


class Adversary:
    """The attacks of a run: two a concept, beside its own words and beside the prompt without them."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Mapping[str, Condition],
        concepts: Sequence[Concept],
        settings: Settings,
        level: Level,
    ) -> None:
        """Nothing is searched yet; raises EsdError for networks whose conditions cannot be attacked."""
        self.denoiser, self.conditions, self.settings, self.level = denoiser, conditions, settings, level
        self.silent = [concept.silent_prompt or NULL_PROMPT for concept in concepts]
        around = [(i, [c.student_prompt, *(each.prompt for each in c.contexts or ())]) for i, c in enumerate(concepts)]
        self.concept_of = {prompt: i for i, prompts in reversed(around) for prompt in prompts}
        pairs = zip(concepts, self.silent, strict=True)
        self.told = [conditions[prompt] for c, silent in pairs for prompt in (c.student_prompt, silent)]
        self.slots = [open_slots(each) for each in self.told]
        self.since = -1
        """The step at which the attacks began."""

    def joined(self, micro: Sequence[list[Example]], step: int) -> tuple[list[list[Example]], Mapping[str, Condition]]:
        """Move the attacks, and return the micro-batches with the attacked examples, and their conditions.

        Each example of a concept takes a pass of the base, and one of the student for each move.
        """
        if self.settings.stop != WHEN_GONE and self.since < 0 and step >= self.settings.steps // WARM_UP:
            self.since = step
        if self.since < 0:
            return list(micro), self.conditions
        told: dict[str, Condition] = {}
        made = [self._joined(batch, step, told) for batch in micro]
        known = {each.prompt: self.conditions[each.prompt] for batch in micro for each in batch}
        return made, {**known, **told}

    def _joined(self, batch: list[Example], step: int, told: dict[str, Condition]) -> list[Example]:
        """Halve the weight of the concepts' examples, and add the other half under attack; the mean stays a sum."""
        count = self.settings.batch_size
        own, kept = batch[:count], batch[count:]
        groups = len(batch) // count
        share = (groups + 1) / groups
        attacked = []
        for place, example in enumerate(own):
            name = f"{len(told)} attacks {example.prompt}"
            told[name] = self._moved(example, step + place)
            attacked.append(replace(example, prompt=name, weight=example.weight * share / 2))
        own = [replace(each, weight=each.weight * share / 2) for each in own]
        return [*own, *attacked, *(replace(each, weight=each.weight * share) for each in kept)]

    def _moved(self, example: Example, turn: int) -> Condition:
        """Move one of the example's concept's attacks, by turns, and return what the network is told."""
        concept, beside = self.concept_of[example.prompt], turn % 2
        place = 2 * concept + beside
        prompt = self.silent[concept] if beside else example.prompt
        slots = self._afresh(place, turn) if turn % self.level.afresh < 2 else self.slots[place]
        slots = replace(slots, told=self.conditions[prompt])
        x, sigma = example.x[None].to(self.denoiser.device), torch.tensor([example.sigma], device=self.denoiser.device)
        with torch.no_grad():
            wanted = predict(self.denoiser, x, sigma, batched([self.conditions[example.prompt]]))
        for _ in range(self.level.moves):
            slots = move(slots, self.denoiser, x, sigma, wanted)
        self.slots[place] = slots
        return slots.condition

    def _afresh(self, place: int, turn: int) -> Slots:
        """Begin an attack anew, from tokens that depend on the seed and the step alone."""
        draw = stream_generator(self.settings.seed + turn, ATTACKING)
        return open_slots(self.told[place], draw, APART)

    def is_enough(self, gone: bool, steps: int) -> bool:
        """Whether a run may end that made so many steps: its concepts are gone, and attacks were met for long enough.

        The first time that all are gone the attacks begin.
        """
        if gone and self.since < 0:
            self.since = steps
        return gone and self.since >= 0 and steps - self.since >= self.level.steps

    def state(self) -> dict[str, Tensor]:
        """Return all that the attacks to come depend on."""
        found = {"since": torch.tensor(self.since)}
        for place, slots in enumerate(self.slots):
            found |= {f"{place}/{name}": getattr(slots, name) for name in ("values", "first", "second")}
            found[f"{place}/moved"] = torch.tensor(slots.moved)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; raises KeyError where it is not one of such a run."""
        self.since = int(state["since"])
        for place, slots in enumerate(self.slots):
            values, first, second = (state[f"{place}/{n}"].to(slots.values) for n in ("values", "first", "second"))
            moved = int(state[f"{place}/moved"])
            self.slots[place] = replace(slots, values=values, first=first, second=second, moved=moved)


def attack_passes(level: Level) -> int:
    """Network passes of an example of a concept beyond its own: the base's, the moves', and the attacked one's."""
    return 2 + level.moves


def pool(concepts: Sequence[Concept], kept: Iterable[str], tokens: Callable[[str], Tensor], count: int) -> Keep:
    """Return the empty prompt, attributes' prompts without their words, and the common words nearest to the concepts.

    Near is by the cosine of what words add to the mean token of the empty prompt; `tokens` gives "n d".  Words of the
    concepts, and what is kept already, are left out.
    """
    named = {word for c in concepts for words in (c.erase, c.student_prompt) for word in words.split()}
    null = tokens(NULL_PROMPT).mean(0)
    wanted = [tokens(concept.erase).mean(0) - null for concept in concepts]

    def nearness(word: str) -> float:
        added = tokens(word).mean(0) - null
        return max(float(torch.cosine_similarity(added, each, dim=0)) for each in wanted)

    have = set(kept)
    words = sorted((w for w in COMMON_WORDS if w not in named | have), key=nearness, reverse=True)[:count]
    silent = [concept.silent_prompt for concept in concepts if concept.silent_prompt]
    return Keep(tuple(prompt for prompt in dict.fromkeys([NULL_PROMPT, *silent, *words]) if prompt not in have))
