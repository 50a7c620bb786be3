"""Unified Concept Editing in the real host: what it edits, what it draws, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from support.dit_models import DITS, build, patcher
from support.graphs import Graph, slot


def edited(comfy, parts, concept=None, keep="dog", **inputs):
    g, (model, clip) = Graph(comfy), parts
    node = g.add(
        "ESDUnifiedConceptEditing", model=g.give(model), clip=g.give(clip), keep=g.add("ESDKeep", prompts=keep),
        concepts=g.add("ESDConcept", **{"concept": "cat", **(concept or {})}), **inputs,
    )  # fmt: skip
    return g.take(model=node, weights=slot(node, 1)).run()


@pytest.fixture
def parts(node_classes, tiny):
    return tiny.model, tiny.clip


def test_it_edits_keys_and_values_of_text_attention_alone(comfy, parts):
    found = edited(comfy, parts)
    names = found["weights"].names
    assert names and all(".attn2.to_k." in name or ".attn2.to_v." in name for name in names)
    assert set(found["model"].patches) == set(names) and parts[0].patches == {}
    assert found["weights"].metadata["esd.method"] == "uce"


def test_the_concept_s_keys_become_those_of_the_other_prompt(comfy, parts):
    """On each edited matrix: W' c = W c* for every token, up to what the ridge holds back."""
    model, clip = parts
    found = edited(comfy, parts, {"replace_with": "key"}, ridge=0.001)
    cat, key, dog = (clip.encode_from_tokens_scheduled(p)[0][0][0].double() for p in ("cat", "key", "dog"))
    state = model.model_state_dict()
    for name, difference in found["weights"].differences.items():
        old = state[name].double()
        new = old + difference.double()
        before, after = ((w @ cat.T - old @ key.T).norm() for w in (old, new))
        assert after < 0.02 * before
        assert (new @ dog.T - old @ dog.T).norm() < 0.02 * (old @ dog.T).norm()


def test_equal_inputs_give_equal_bits(comfy, parts):
    first, second = (edited(comfy, parts)["weights"].differences for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("concept", "message"),
    [({"concept": "halo", "erase_from": "face"}, "Unified Concept Editing knows no erase_from")],
)
def test_refusals(comfy, parts, concept, message):
    assert edited(comfy, parts, concept).message.startswith(message)


def test_a_model_without_text_attention_of_its_own(comfy, parts):
    flux = patcher(build(DITS["schnell"].kind, DITS["schnell"].config))
    message = edited(comfy, (flux, parts[1])).message
    assert message.endswith("use Erase, or an SD1.x, SD2.x or SDXL model.")
