"""What to erase, what to keep, and which prompts that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import EsdError

NULL_PROMPT = ""


@dataclass(frozen=True)
class Context:
    """A prompt that holds the concept among other words, and what its target is made of.

    `carrier` is the same prompt without the concept and stands where the empty prompt stands in the paper: the target
    is eps(anchor) - eta * (eps(prompt) - eps(carrier)), and without a replacement the anchor is the carrier.
    """

    prompt: str
    carrier: str = NULL_PROMPT
    anchor: str = NULL_PROMPT


@dataclass(frozen=True)
class Concept:
    """One concept to erase, in prompts; `weight` is its share of the training examples among several concepts.

    Contexts that are None are still to be chosen; without any it is trained by its own words alone, as published.
    """

    erase: str
    erase_from: str = ""
    replace_with: str = ""
    weight: float = 1.0
    kind: str = ""
    """What it is (a key of contexts.TEMPLATES); empty: to be guessed from its words."""
    contexts: tuple[Context, ...] | None = None

    @property
    def student_prompt(self) -> str:
        """The prompt whose prediction changes, and under which x_t is drawn."""
        return self.erase_from or self.erase

    @property
    def anchor_prompt(self) -> str:
        """The prompt whose prediction the target starts from."""
        return self.replace_with or self.erase_from or NULL_PROMPT

    @property
    def silent_prompt(self) -> str:
        """What it is erased from without its words; empty where those are not in it."""
        silent = without(self.erase_from, self.erase)
        return silent if silent != " ".join(self.erase_from.split()) else ""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt that the frozen network must answer to train this concept."""
        around = (p for c in self.contexts or () for p in (c.prompt, c.carrier, c.anchor))
        return tuple(dict.fromkeys((NULL_PROMPT, self.student_prompt, self.erase, self.anchor_prompt, *around)))

    @property
    def silent_prompts(self) -> tuple[str, ...]:
        """The prompts of an attribute without its words, against which it is measured."""
        if not self.silent_prompt:
            return ()
        whole = (self.erase_from, *(context.prompt for context in self.contexts or ()))
        return tuple(dict.fromkeys(without(prompt, self.erase) for prompt in whole))


def without(prompt: str, words: str) -> str:
    """Return a prompt without these words: as they stand together, or else one by one, if it has all of them."""
    said, gone, kept = prompt.split(), words.split(), list[str]()
    while said:
        together = bool(gone) and said[: len(gone)] == gone
        kept += [] if together else said[:1]
        said = said[len(gone) if together else 1 :]
    if kept == prompt.split() and set(gone) <= set(kept):
        kept = [word for word in kept if word not in gone]
    return " ".join(kept)


@dataclass(frozen=True)
class Keep:
    """Prompts on which the student must go on matching the frozen network, and how much that counts."""

    prompts: tuple[str, ...]
    weight: float = 1.0


def make_concept(erase: str, erase_from: str = "", replace_with: str = "", weight: float = 1.0) -> Concept:
    """Return a checked concept; raise EsdError where the words or the weight make no sense."""
    erase, erase_from, replace_with = erase.strip(), erase_from.strip(), replace_with.strip()
    if not erase:
        raise EsdError("The concept is empty: type the words that make the model draw what should be erased.")
    if erase_from == erase:
        raise EsdError(f'"erase from" equals the concept "{erase}": leave it empty to erase the concept everywhere.')
    if replace_with == (erase_from or erase):
        raise EsdError(f'"replace with" equals the prompt it replaces ("{replace_with}"): name another prompt.')
    _require_text(erase, erase_from, replace_with)
    if not 0 < weight < math.inf:
        raise EsdError(f"The concept's weight is {weight!r:.30}: it must be a number above 0.")
    return Concept(erase, erase_from, replace_with, weight)


def make_keep(text: str, weight: float) -> Keep:
    """Keep prompts from text with one prompt a line; blank lines are skipped."""
    prompts = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise EsdError("There are no prompts to keep: write one prompt a line.")
    _require_text(*prompts)
    if not 0 <= weight < math.inf:
        raise EsdError(f"The keep weight is {weight!r:.30}: it must be 0 (off) or a number above 0.")
    return Keep(prompts, weight)


def is_whole(prompt: str) -> bool:
    """Whether a text encoder can be given this text: it holds no half of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in prompt)


def _require_text(*prompts: str) -> None:
    for prompt in prompts:
        if not is_whole(prompt):
            raise EsdError(f'The prompt "{prompt:.100}" holds half of a character, as broken copies do: type it anew.')


def kept_prompts(keeps: Sequence[Keep]) -> list[str]:
    """Return the prompts of keeps that count."""
    return [prompt for keep in keeps if keep.weight for prompt in keep.prompts]


def prompts_of(concepts: Sequence[Concept], keeps: Sequence[Keep]) -> list[str]:
    """Every distinct prompt of a run, the empty one first."""
    erased = [p for c in concepts for p in (*c.prompts, *c.silent_prompts)]
    words = [NULL_PROMPT, *erased, *(p for k in keeps for p in k.prompts)]
    return list(dict.fromkeys(words))
