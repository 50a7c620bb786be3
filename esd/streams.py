"""The streams of a run, and the micro-batches of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from .concepts import Concept, Keep
from .denoiser import Condition, Denoiser
from .examples import Example, ExampleStream, concept_specs, keep_specs
from .random_streams import ERASED, KEPT, stream_generator
from .settings import Settings


def make_streams(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
) -> list[ExampleStream]:
    """Return the examples of the concepts and, where there are keeps, those of the keeps."""
    erased = [each for c in concepts for each in concept_specs(c, settings)]
    kept = [(each, 1.0) for each in keep_specs(keeps)]
    return [
        ExampleStream(
            denoiser,
            conditions,
            specs,
            settings,
            settings.examples,
            stream_generator(settings.seed, stream),
            groups,
        )
        for stream, specs, groups in ((ERASED, erased, len(concepts)), (KEPT, kept, len(kept)))
        if specs
    ]


def next_micro_batches(streams: Sequence[ExampleStream], settings: Settings) -> list[list[Example]]:
    """Return the micro-batches of one optimiser step; each holds the concept's examples and as many keep examples.

    Their weights make the batch's mean the sum of both means: mean(concept) + weight * mean(keep).
    """
    return [
        [
            replace(example, weight=example.weight * len(streams))
            for stream in streams
            for example in islice(stream, settings.batch_size)
        ]
        for _ in range(settings.gradient_accumulation_steps)
    ]
