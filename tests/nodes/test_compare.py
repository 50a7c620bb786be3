"""Before / After in the real host: rows of strengths, several seeds, the difference, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from support.graphs import Graph, slot

NAME = "emoji-world.ckpt"
OLDER = Path(__file__).with_name("before_after_0.1.0.json")
"""A workflow as it was saved before Before / After got weights, strengths, seeds and the difference."""


@pytest.fixture(scope="module")
def graph(comfy, node_classes):
    """Makes an empty graph."""
    return lambda: Graph(comfy)


@pytest.fixture(scope="module")
def world(playground):
    """The playground, and a change of its text attention that nobody had to train."""
    from esd_pack.esd.erasure import Erasure

    model, clip, vae = playground
    shapes = {name: t.shape for name, t in model.model_state_dict().items() if "attn2.to_v" in name}
    noise = torch.Generator().manual_seed(1)
    weights = Erasure({name: 0.05 * torch.randn(shape, generator=noise) for name, shape in shapes.items()})
    return SimpleNamespace(model=model, clip=clip, vae=vae, weights=weights)


def compare(graph, world, prompts="cat\ndog", before_and_after=False, **inputs):
    """A short comparison; objects of the test may be inputs."""
    g = graph()
    links = {key: g.give(value) if key in ("model_after", "weights") else value for key, value in inputs.items()}
    if before_and_after:
        links["model_after"] = g.give(world.model)
    node = g.add(
        "ESDBeforeAfter",
        model_before=g.give(world.model),
        clip=g.give(world.clip),
        vae=g.give(world.vae),
        **{"prompts": prompts, "steps": 2, "cfg": 3.0, "width": 64, "height": 64, **links},
    )
    return g.take(grid=node, before=slot(node, 1), after=slot(node, 2)).run()


def shape_of(rows, columns=2, notes=0, label="strength 0.5"):
    """Height and width of a grid of 64-pixel pictures."""
    from PIL import ImageFont

    side = round(ImageFont.load_default(12).getlength(label)) + 16
    return 2 * 18 + rows * (128 + 8) + notes * 18 + 8, side + columns * (128 + 8)


@pytest.fixture(scope="module")
def sweep(graph, world):
    """One model at three strengths."""
    return compare(graph, world, weights=world.weights, strengths="0, 0.5,1")


class TestStrengths:
    """One model at several strengths."""

    def test_a_row_a_strength_and_one_before(self, sweep):
        assert sweep["grid"].shape[1:3] == shape_of(4)

    def test_the_last_strength_is_the_batch_after(self, graph, world, sweep):
        g = graph()
        applied = g.add("ESDApply", model=g.give(world.model), weights=g.give(world.weights), strength=1.0)
        model = g.take(model=applied).run()["model"]
        plain = compare(graph, world, model_after=model)
        assert torch.equal(plain["after"], sweep["after"]) and torch.equal(plain["before"], sweep["before"])
        assert not torch.equal(sweep["before"], sweep["after"])

    def test_strength_0_is_the_original(self, graph, world):
        outcome = compare(graph, world, weights=world.weights, strengths="0")
        assert torch.equal(outcome["before"], outcome["after"])

    def test_every_strength_is_another_picture(self, graph, world, sweep):
        half = compare(graph, world, weights=world.weights, strengths="0.5")["after"]
        towards = (half - sweep["before"]).abs().mean(), (sweep["after"] - sweep["before"]).abs().mean()
        assert 0 < towards[0] < towards[1]

    def test_another_model_comes_below_the_strengths(self, graph, world):
        outcome = compare(graph, world, before_and_after=True, weights=world.weights, strengths="0.5")
        assert outcome["grid"].shape[1:3] == shape_of(3) and torch.equal(outcome["before"], outcome["after"])

    def test_the_incoming_model_carries_no_patch(self, world, sweep):
        assert world.model.patches == {}

    def test_progress_counts_every_row_that_is_drawn(self, graph, world, monkeypatch):
        import comfy.utils

        seen = []
        monkeypatch.setattr(
            comfy.utils.ProgressBar,
            "update_absolute",
            lambda bar, value, total=None, preview=None: seen.append((value, total)),
        )
        compare(graph, world, weights=world.weights, strengths="0, 1")
        assert seen == [(2, 8), (4, 8), (6, 8), (8, 8)]  # strength 0 is the row above it


class TestSeeds:
    """Several pictures a prompt."""

    def test_each_picture_has_the_next_seed(self, graph, world):
        many = compare(graph, world, "cat\ndog", before_and_after=True, seeds_per_prompt=3, seed=7)
        assert many["before"].shape == many["after"].shape == (6, 64, 64, 3)
        for line, seed, index in (("cat", 7, 0), ("cat", 9, 2), ("dog", 10, 3)):
            alone = compare(graph, world, line, before_and_after=True, seed=seed)
            assert torch.allclose(alone["before"][0], many["before"][index], atol=2e-3)  # another batch size

    def test_seeds_of_a_prompt_stay_side_by_side(self, graph, world):
        grid = compare(graph, world, "cat\ndog\nkey", before_and_after=True, seeds_per_prompt=3)["grid"]
        assert grid.shape[2] == shape_of(2, columns=6, label="before")[1]  # the third prompt is in a block of its own

    def test_seeds_begin_again_at_the_largest(self, graph, world):
        assert compare(graph, world, before_and_after=True, seed=2**64 - 1)["before"].shape[0] == 2


class TestDifference:
    """The row that shows where pictures differ."""

    def test_it_adds_a_row_with_words_below(self, graph, world):
        outcome = compare(graph, world, weights=world.weights, difference_gain=4.0)
        assert outcome["grid"].shape[1:3] == shape_of(3, notes=1, label="difference x 4")

    def test_what_is_the_same_is_black(self, graph, world):
        outcome = compare(graph, world, "cat", before_and_after=True, difference_gain=4.0)
        height, width = shape_of(3, columns=1, notes=1, label="difference x 4")
        top = 2 * 18 + 2 * 136 + 4
        assert outcome["grid"][0, top : top + 128, width - 136 : width - 8].max() == 0

    def test_its_row(self):
        from esd_pack.nodes.ui.grid import difference

        before, after = torch.zeros(2, 4, 4, 3), torch.full((2, 4, 4, 3), 0.1)
        after[1] = 0.9
        row = difference(before, after, 2.0)
        assert row.label == "difference x 2" and list(row.notes) == ["mean 0.100", "mean 0.900"]
        assert torch.allclose(row.pictures[0], torch.tensor(0.2)) and row.pictures[1].max() == 1


class TestGrid:
    """The picture, apart from any model."""

    def test_a_huge_comparison_is_shrunk(self, monkeypatch):
        from esd_pack.nodes.ui import grid

        monkeypatch.setattr(grid, "MOST_PIXELS", 10**6)
        rows = [grid.Row("before", torch.zeros(64, 1, 1, 1).expand(64, 512, 512, 3))] * 2
        made = grid.labelled_grid([grid.Column("cat", i) for i in range(64)], rows)
        assert 0.6e6 < made.shape[1] * made.shape[2] < 2e6

    @pytest.mark.parametrize(("together", "columns"), [(1, 8), (3, 6), (5, 5), (20, 8)])
    def test_columns_of_a_block(self, together, columns):
        from esd_pack.nodes.ui import grid

        made = grid.labelled_grid(
            [grid.Column("cat", i) for i in range(40)], [grid.Row("before", torch.zeros(40, 64, 64, 3))], together
        )
        assert made.shape[2] == shape_of(1, columns, label="before")[1]


class TestRefusals:
    """One sentence with cause and cure, before anything is drawn."""

    @pytest.mark.parametrize(
        ("strengths", "message"),
        [
            ("", "There are no strengths: write at least one"),
            ("0, half", '"half" is no strength: write numbers from -10 to 10 with commas between them'),
            ("0, 11", '"11" is no strength'),
            ("nan", '"nan" is no strength'),
            (
                " ".join(str(i / 10) for i in range(17)),
                "There are 17 strengths, and each one is a row: write at most 16",
            ),
        ],
    )
    def test_strengths_are_refused_before_anything_runs(self, graph, world, strengths, message):
        outcome = compare(graph, world, weights=world.weights, strengths=strengths)
        assert outcome.ending == "refused" and outcome.message.startswith(message) and "\n" not in outcome.message

    def test_nothing_to_compare_with(self, graph, world):
        outcome = compare(graph, world)
        assert outcome.message.startswith("There is nothing to compare with: connect the erased MODEL to model_after")

    def test_strengths_of_nothing(self, graph, world):
        outcome = compare(graph, world, before_and_after=True, strengths="0, 1")
        assert outcome.message.startswith("The strengths need weights: connect the weights of Erase")

    def test_weights_of_another_family(self, graph, world):
        from esd_pack.esd.erasure import Erasure

        other = Erasure({"diffusion_model.no.such.weight": torch.zeros(2)})
        message = compare(graph, world, weights=other).message
        assert message.startswith("These weights were made for another kind of model")

    @pytest.mark.parametrize("inputs", [{"seeds_per_prompt": 0}, {"difference_gain": -1.0}])
    def test_figures_out_of_range(self, graph, world, inputs):
        assert compare(graph, world, before_and_after=True, **inputs).ending == "refused"


class TestOlderGraphs:
    """What was saved before the node grew."""

    def test_a_prompt_without_the_later_inputs(self, graph, world):
        outcome = compare(graph, world, before_and_after=True)
        assert outcome["grid"].shape[1:3] == shape_of(2, label="before")

    def test_a_workflow_with_the_older_sockets_and_widgets(self, page, object_info):
        from lab.launch.workflow import to_prompt
        from support import browser

        workflow = json.loads(OLDER.read_text("utf-8"))
        browser.load(page, workflow)
        shown, ours = browser.as_prompt(page), to_prompt(workflow, object_info)
        assert shown["3"]["inputs"] == ours["3"]["inputs"]
        linked = {key: value for key, value in shown["3"]["inputs"].items() if isinstance(value, list)}
        assert linked == {"model_before": ["1", 0], "model_after": ["2", 0], "clip": ["1", 1], "vae": ["1", 2]}
        assert shown["3"]["inputs"]["height"] == 64 and shown["3"]["inputs"]["strengths"] == "1"
        assert page.errors == []
