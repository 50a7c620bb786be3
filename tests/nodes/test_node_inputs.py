"""What users and other nodes may put into the nodes' inputs, in the real host: right, or one sentence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esd_pack.esd.concepts import Concept
from esd_pack.esd.erasure import PREFIX, Erasure
from esd_pack.esd.errors import EsdError
from esd_pack.esd.selection import METHODS
from esd_pack.esd.settings import Settings, check
from support.graphs import Graph, slot
from support.odd_values import COUNTED, FIELDS, NUMBERS, ODD_NUMBERS, ODD_TEXTS, TEXTS, examples_of, outcome, tensors
from support.outcomes import record

QUICK = Settings(
    steps=1,
    num_inference_steps=2,
    samples_per_trajectory=2,
    trajectory_batch=1,
    buffer_size=2,
    width=64,
    height=64,
    stop="after all steps",
    contexts="own words",
    closed_form=False,
)
KEYS = ("inputs", "model", "1", "2", "ckpt_name")


@pytest.fixture(scope="module")
def model(playground, node_classes):
    """The playground's MODEL."""
    return playground[0]


@pytest.fixture(scope="module")
def clip(playground):
    """The playground's CLIP."""
    return playground[1]


class TestNodesWithoutAModel:
    """Concept, Keep and Erase Settings."""

    @examples_of(60)
    @given(TEXTS, TEXTS, TEXTS, NUMBERS, st.booleans())
    def test_concept(self, node_classes, erase, erase_from, replace_with, weight, chained):
        previous = (Concept("x"),) if chained else ()
        run = node_classes["ESDConcept"].execute
        made = outcome(lambda: run(erase, erase_from, replace_with, weight, previous))
        assert made is None or (len(made.args[0]) == 1 + chained and made.args[0][:-1] == previous)

    @examples_of(40)
    @given(st.lists(TEXTS, max_size=3).map("\n".join), NUMBERS)
    def test_keep(self, node_classes, prompts, weight):
        made = outcome(lambda: node_classes["ESDKeep"].execute(prompts, weight))
        assert made is None or made.args[0][0].prompts

    @examples_of(40)
    @given(st.sampled_from(sorted(FIELDS)), NUMBERS)
    def test_settings_are_judged_where_they_are_used(self, node_classes, name, value):
        made = node_classes["ESDEraseSettings"].execute(**{name: value}).args[0]
        used = outcome(lambda: check(made)) if not isinstance(FIELDS[name], str) else None
        assert used is None or used is made


class TestPlans:
    """What Erase settles before any network call."""

    @examples_of(50)
    @given(
        st.sampled_from(sorted(FIELDS)),
        NUMBERS | st.sampled_from((7, 8, 15, 63, 65, 72, 1000)) | st.sampled_from(sorted(METHODS)),
    )
    def test_a_plan(self, model, name, value):
        from esd_pack.nodes.host.run.erase import make_plan

        if isinstance(value, str) != isinstance(FIELDS[name], str):
            return
        plan = outcome(lambda: make_plan(model, replace(QUICK, **{name: value})))
        if plan is not None:
            assert plan.names and all(side > 0 for side in plan.latent_shape)
            assert name not in ("width", "height") or value in (0, plan.latent_shape[1] * 8, plan.latent_shape[2] * 8)

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_plans_or_says_that_it_selects_nothing(self, model, method):
        from esd_pack.nodes.host.run.erase import make_plan

        plan = outcome(lambda: make_plan(model, replace(QUICK, method=method)))
        assert plan is None or plan.names

    @pytest.mark.parametrize("kind", [None, 3, "", torch.ones(2), object()])
    def test_what_is_no_model(self, node_classes, kind):
        from esd_pack.nodes.host.run.erase import make_plan

        assert outcome(lambda: make_plan(kind, QUICK)) is None


SHORT_TEXTS = [text for text in ODD_TEXTS if text.strip() and len(text) < 999 and "\ud800" not in text]


class TestRuns:
    """Whole runs of one step under odd prompts."""

    @pytest.mark.parametrize("prompt", SHORT_TEXTS)
    def test_every_prompt_is_encoded_as_the_host_does(self, model, clip, prompt):
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.model.host_model import as_host_model

        found = outcome(lambda: encode(as_host_model(model), clip, ["", prompt], (4, 8, 8), torch.device("cpu")))
        assert found is None or all(torch.isfinite(c.tensors["c_crossattn"]).all() for c in found.values())

    @pytest.mark.parametrize("prompt", ["(cat:1.5)", "embedding:x", "\u202e\u05d7\u05ea\u05d5\u05dc", "word " * 300])
    def test_a_run_under_an_odd_prompt(self, comfy, playground, node_classes, prompt):
        g = Graph(comfy)
        g.add(
            "ESDEraseSettings",
            **{k: getattr(QUICK, k) for k in ("num_inference_steps", "buffer_size", "width", "height")},
        )
        concepts = g.add("ESDConcept", concept=prompt)
        erased = g.add(
            "ESDErase", model=g.give(playground[0]), clip=g.give(playground[1]), concepts=concepts,
            settings=g.give(QUICK), steps=1, start="start over", preview_every=0, snapshot_every=0,
        )  # fmt: skip
        found = g.take(weights=slot(erased, 1), losses=slot(erased, 2)).run()
        assert all(torch.isfinite(t).all() for t in found["weights"].differences.values())
        assert math.isfinite(found["losses"]["loss"][0])
        COUNTED["tried"] += 1


class TestWeights:
    """Apply, Info, Save and Load Erasure."""

    @examples_of(60)
    @given(st.dictionaries(st.sampled_from(("out.2.weight", "out.0.weight", "x")), tensors(), max_size=2), NUMBERS)
    def test_apply_takes_what_fits(self, model, found, strength):
        from esd_pack.nodes.host.model.apply import apply

        before = dict(model.patches)
        made = outcome(lambda: apply(model, Erasure({PREFIX + n: t for n, t in found.items()}), strength))
        assert model.patches == before and (made is None or made is not model)
        assert made is None or math.isfinite(strength)

    @examples_of(30)
    @given(st.dictionaries(TEXTS, tensors(), max_size=3))
    def test_info_describes_anything(self, node_classes, found):
        made = outcome(lambda: node_classes["ESDErasureInfo"].execute(Erasure(found)))
        assert made is None or made.args or made.ui

    @examples_of(60)
    @given(
        TEXTS
        | st.sampled_from(("a" * 300, "x/" * 200, "con", "a:b", "~/x", "./x", "x/", "/", "%date%", "a\\..\\..\\b"))
    )
    def test_a_file_name_is_inside_the_output_folder(self, comfy, comfy_base, prefix):
        from esd_pack.nodes.host.files.save import check_name, output_path

        path = outcome(lambda: output_path(prefix, ".safetensors"))
        assert path is None or path.resolve().is_relative_to((comfy_base / "output").resolve())
        assert check_name(prefix) is True or isinstance(check_name(prefix), str)

    @examples_of(40)
    @given(TEXTS | st.sampled_from(("../x.safetensors", "/etc/passwd", "x.safetensors", "a/b.pt", "nul.pt")))
    def test_a_file_to_load(self, comfy, name):
        from esd_pack.nodes.host.files.folders import path_of
        from esd_pack.nodes.host.files.load import load

        assert outcome(lambda: path_of(name)) is None
        assert outcome(lambda: load(name)) is None

    @examples_of(60)
    @given(TEXTS)
    def test_strengths_and_prompts_of_a_comparison(self, comfy, text):
        from esd_pack.nodes.host.images.compare import strengths_of
        from esd_pack.nodes.host.images.sampling import prompt_lines

        strengths = outcome(lambda: strengths_of(text))
        assert strengths is None or all(map(math.isfinite, strengths))
        lines = outcome(lambda: prompt_lines(text))
        assert lines is None or all(lines)

    @examples_of(25)
    @given(TEXTS, st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from(ODD_NUMBERS[:6]))
    def test_a_grid_of_any_words_and_sizes(self, node_classes, prompt, count, height, width, value):
        from esd_pack.nodes.ui.charts import bar_chart
        from esd_pack.nodes.ui.grid import Column, Row, labelled_grid

        pictures = torch.full((count, height, width, 3), float(value))
        made = labelled_grid([Column(prompt[:200], 1)] * count, [Row(prompt[:20].replace("\n", " "), pictures)])
        assert made.ndim == 4 and torch.isfinite(made).all()
        assert bar_chart("title", {prompt[:20].replace("\n", " "): 1.0}).ndim == 4

    @examples_of(60)
    @given(
        st.recursive(
            st.none() | st.text(max_size=3) | st.integers(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        )
    )
    def test_a_graph_without_sense_has_no_base_file(self, comfy, prompt):
        from esd_pack.nodes.host.files.graph import base_file

        if prompt is None or isinstance(prompt, dict):
            found = {"1": {"inputs": {"model": ["2", 0]}}, "2": {"inputs": prompt}} if prompt else prompt
            assert base_file(found, "1") is None or base_file(found, "1").is_file()


def test_the_refused_sentence_is_what_the_node_shows(comfy, node_classes):
    g = Graph(comfy)
    g.take(c=g.add("ESDConcept", concept=g.give("\ud800")))
    assert "holds half of a character" in str(g.run().message)


def test_node_inputs_are_counted(node_classes):
    """The row of the table; it counts what the tests above tried."""
    if COUNTED["tried"] > 300:
        counts = {"refused in one sentence": COUNTED["refused"], "right": COUNTED["tried"] - COUNTED["refused"]}
        record("odd texts, numbers, files and shapes in the inputs of every node", COUNTED["tried"], counts)
    with pytest.raises(EsdError):
        check(replace(QUICK, steps=0))
