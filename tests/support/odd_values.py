"""Odd texts, numbers and tensors, and what must come of them: a result, or an error of one sentence."""

from __future__ import annotations

import math
from collections import Counter

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from esd_pack.esd import settings as runs
from esd_pack.esd.errors import EsdError
from support.tier import by_tier

ODD_TEXTS = (
    *("", " ", "\t\n", "cat", "(cat:1.5)", "((cat))", "(cat:nan)", "embedding:x", "embedding:../../x", "a\nb\r\nc"),
    *("\U0001f408\u200d\u2b1b", "\u202e\u05d7\u05ea\u05d5\u05dc", "\x00", "\ud800", "%s{0}{x}", "'\"\\", "x" * 100_000),
    *("cat AND dog", "[cat:dog:0.5]", "<lora:x:1>", "BREAK", "{a|b}", "../../etc/passwd", "C:\\con", "\ufeffcat"),
)


ODD_NUMBERS = (0, 0.0, -0.0, -1, -1.5, 1e-300, 1e300, 2**63, 2**64, 10**400, math.nan, math.inf, -math.inf, True)


TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=30)


NUMBERS = st.sampled_from(ODD_NUMBERS) | st.floats() | st.integers()


SIZES = st.integers(0, 7)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


COUNTED: Counter[str] = Counter()


def examples_of(most):
    """Settings of hypothesis for a property: the same examples in every run, and no deadline."""
    return settings(
        max_examples=by_tier(max(10, most // 2), 3 * most, 20 * most),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def outcome(call):
    """What the call gives, or None where it is refused by an error that names cause and cure in one sentence."""
    COUNTED["tried"] += 1
    try:
        return call()
    except ValueError as error:
        if not isinstance(error, EsdError):
            raise
        text = str(error)
        assert text.isprintable() and len(text) < 700 and text.endswith((".", '"')) and ": " in text, text
        COUNTED["refused"] += 1
        return None


SHAPE = st.lists(st.integers(0, 5), max_size=4)


def tensors(least=0, most=4):
    """Tensors of any small shape with any values, not all finite."""
    return st.lists(st.integers(0, 5), min_size=least, max_size=most).flatmap(tensors_of)


def tensors_of(shape):
    """The same of one shape."""
    fills = st.sampled_from(("normal", "zeros", "nan", "inf", "huge", "half", "whole", "tiny"))

    def make(fill, seed):
        made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        changes = {"zeros": 0.0, "nan": math.nan, "inf": math.inf, "huge": 3e38, "tiny": 1e-45}
        if fill in changes:
            return torch.full_like(made, changes[fill])
        return made.half() if fill == "half" else made.long() if fill == "whole" else made

    return st.builds(make, fills, st.integers(0, 99))


FIELDS = {name: getattr(runs.Settings(), name) for name in runs.Settings.__dataclass_fields__}
