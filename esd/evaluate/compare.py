"""Several models on the same rows, each beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import EsdError
from .metrics import Change, Rate, Score, changes, rate


@dataclass(frozen=True)
class ArmRates:
    """A model's found rates by role, and of all but the first what changed against it."""

    name: str
    rates: tuple[tuple[str, Rate], ...]
    changes: tuple[Change, ...] = ()

    def rate(self, role: str) -> Rate | None:
        """Return the rate of a role; none where it has no rows."""
        return dict(self.rates).get(role)


def compare(arms: Mapping[str, Sequence[Score]]) -> tuple[ArmRates, ...]:
    """Compare models by name, the first being what the others are compared with.

    Raises EsdError where they did not draw the same rows.
    """
    (first, scores), *others = arms.items()
    order = {score.pair: place for place, score in enumerate(scores)}
    made = [ArmRates(first, _rates(scores))]
    for name, theirs in others:
        if len(theirs) != len(scores) or {score.pair for score in theirs} != set(order):
            raise EsdError(
                f'"{name:.60}" and "{first:.60}" are of different pictures: draw the same prompts with the same seeds '
                "for all reports."
            )
        alike = sorted(theirs, key=lambda score: order[score.pair])
        made.append(ArmRates(name, _rates(alike), changes(scores, alike)))
    return tuple(made)


def _rates(scores: Sequence[Score]) -> tuple[tuple[str, Rate], ...]:
    roles = dict.fromkeys(score.role for score in scores)
    return tuple((role, rate([score for score in scores if score.role == role])) for role in roles)


def arms_of(reports: Sequence[tuple[str, str, Sequence[Score]]]) -> dict[str, Sequence[Score]]:
    """Return the scores of each model by name from reports: name, judge's card, and scores of one model or two.

    Of two the first is what the report's model was compared with, which all reports share.  Raises EsdError where
    judges differ.
    """
    arms: dict[str, Sequence[Score]] = {}
    cards = {card for _, card, _ in reports}
    if len(cards) > 1:
        raise EsdError("The reports are of different judges, whose figures do not compare: use one judge for all.")
    for name, _, scores in reports:
        models = list(dict.fromkeys(score.model for score in scores))
        parts = [[score for score in scores if score.model == model] for model in models]
        if len(parts) > 1 and not arms:
            arms["before"] = parts[0]
        if not parts:
            raise EsdError(f'The report "{name:.60}" has no judged pictures: connect reports of Evaluate or Score.')
        arms[_free(name, arms)] = parts[-1]
    return arms


def _free(name: str, taken: Mapping[str, object]) -> str:
    names = [name, *(f"{name} ({number})" for number in range(2, len(taken) + 3))]
    return next(each for each in names if each not in taken)
