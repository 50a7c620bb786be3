"""The prompts in which a concept is trained beside its own words: phrasings, and things that carry a style.

A fine-tuning on the bare words alone leaves a style in "cat in ink style" (measured in docs/quality.md): there the
words sit among others.  So each context gives a prompt with the concept and the same prompt without it, its carrier,
which takes the place of the empty prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .concepts import Concept, Context
from .errors import EsdError

KINDS = ("object", "style", "attribute")
CONCEPT, CARRIER = "[concept]", "[carrier]"

TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": ("a photo of a [concept]", "a picture of the [concept]", "a drawing of a [concept]", "two [concept]"),
    "style": ("[carrier] in [concept]",),
    "attribute": ("a photo of a [concept]", "a drawing of a [concept]"),
}
"""What is said around the concept, by kind; [carrier] is each carrier in turn."""

CARRIERS = (
    *("cat", "house", "car", "tree", "apple", "dog", "boat", "flower"),
    *("bird", "chair", "mountain", "train", "fish", "clock", "cup", "hat"),
)
"""Plain things that most models draw."""

ETA = {"object": 1.0, "style": 3.0, "attribute": 4.0}
"""How far to push away from a concept of each kind, where that is left to choose: docs/quality.md has the trials."""

_STYLES = re.compile(r"\b(style|styled|aesthetic|painting|paintings|art|artwork|drawing|sketch|engraving)\b", re.I)


@dataclass(frozen=True)
class ContextRules:
    """How the contexts of a concept are made: its kind ("" guesses), and templates and carriers ((): those by kind)."""

    kind: str = ""
    templates: tuple[str, ...] = ()
    carriers: tuple[str, ...] = ()


def make_rules(kind: str, templates: str, carriers: str) -> ContextRules:
    """Return checked rules from texts with one entry a line; raise EsdError for a template without the concept."""
    rules = ContextRules("" if kind == "auto" else kind, *(tuple(_lines(text)) for text in (templates, carriers)))
    for template in rules.templates:
        if CONCEPT not in template:
            raise EsdError(
                f'The template "{template:.100}" does not say where the concept goes: write [concept] there.'
            )
    return rules


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


def kind_of(concept: Concept) -> str:
    """Return what a concept is, or guess: an attribute is erased from something, and a style says that it is one."""
    if concept.kind:
        return concept.kind
    if concept.erase_from:
        return "attribute"
    return "style" if _STYLES.search(concept.erase) else "object"


def with_contexts(concept: Concept, rules: ContextRules = ContextRules()) -> Concept:
    """Return the concept with the contexts that the rules make."""
    concept = replace(concept, kind=rules.kind or concept.kind)
    templates = rules.templates or TEMPLATES[kind_of(concept)]
    made = (c for template in templates for c in _contexts(concept, template, rules.carriers or CARRIERS))
    unlike = (c for c in made if c.prompt != concept.student_prompt)
    return replace(concept, contexts=tuple({c.prompt: c for c in unlike}.values()))


def _contexts(concept: Concept, template: str, carriers: Sequence[str]) -> Iterator[Context]:
    named = [concept.student_prompt, concept.erase, concept.replace_with]
    for carrier in carriers if CARRIER in template else ("",):
        if carrier and any(carrier in words.split() for words in named):
            continue  # "cat in cat" is no example of anything
        said = template.replace(CARRIER, carrier)
        prompt = said.replace(CONCEPT, concept.student_prompt)
        if concept.replace_with:
            yield Context(prompt, carrier, said.replace(CONCEPT, concept.replace_with))
        else:
            yield Context(prompt, carrier, prompt if concept.erase_from else carrier)


def by_kind(concepts: Sequence[Concept]) -> list[Concept]:
    """Return the concepts, those that say nothing of contexts with the ones of their kind."""
    return [with_contexts(each) if each.contexts is None else each for each in concepts]
