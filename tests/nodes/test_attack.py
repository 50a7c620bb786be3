"""Attack in the real host: a trained erasure and the base itself, what it reports, leaves alone, and refuses."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from support.graphs import Graph, slot
from support.paths import ROOT

ERASURE = ROOT / "workflows" / "models" / "emoji-world-cat-esd-x.pt"
LINKS = ("report", "found", "residual", "picture", "conditioning", "text")
SMALL = {
    "search_steps": 1, "trajectories": 1, "pictures": 2, "steps": 2, "cfg": 3.0, "width": 64, "height": 64,
    "file_name": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(comfy, node_classes, playground):
    """The playground, and the cat's erasure that is shipped for it."""
    from esd_pack.nodes.host.files.published import load
    from esd_pack.nodes.host.model.apply import apply

    model, clip, vae = playground
    erased = apply(model, load(ERASURE, model, "auto", None, None).weights, 1.0)
    return SimpleNamespace(model=model, erased=erased, clip=clip, vae=vae, graph=lambda: Graph(comfy))


def attacked(world, model, judge="ESDJudgePlayground", **inputs):
    g = world.graph()
    judge = {"judge": g.add(judge)} if judge else {}
    node = g.add(
        "ESDAttack", model=g.give(model), base_model=g.give(world.model), clip=g.give(world.clip),
        vae=g.give(world.vae), concepts=g.add("ESDConcept", concept="cat"), **judge, **{**SMALL, **inputs},
    )  # fmt: skip
    return g.take(**{name: slot(node, i) for i, name in enumerate(LINKS)}).run()


@pytest.fixture(scope="module")
def of_the_erased(world):
    """Its results, with what the progress bar showed last."""
    import comfy.utils

    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            comfy.utils.ProgressBar,
            "update_absolute",
            lambda bar, value, total=None, preview=None: seen.append((value, total)),
        )
        found = attacked(world, world.erased, file_name="esd/attack")
    found.taken["progress"] = seen[-1]
    return found


class TestReport:
    """What an attack of one step says, on an erasure and on the base."""

    def test_figures_pictures_and_files(self, of_the_erased, comfy_base):
        (comeback,) = of_the_erased["report"].attacks
        assert [how for how, _ in comeback.found] == ["untouched", "own words", "attack", "inversion", "completion"]
        assert comeback.own.mean < 0.5 and of_the_erased["residual"] == comeback.attacked.mean
        worst = max(rate.share for how, rate in comeback.found[2:])
        assert of_the_erased["found"] == 100 * worst
        assert of_the_erased["picture"].shape[1] > 5 * 128 and of_the_erased["picture"].shape[3] == 3
        name = re.search(r"Saved (\S+)\.html, .json and .csv", of_the_erased["text"])[1]
        data = json.loads((comfy_base / "output" / "esd" / f"{name}.json").read_text("utf-8"))
        assert data["attacks"][0]["prompt"] == "cat" and len(data["attacks"][0]["found"]) == 5

    @pytest.mark.full
    def test_the_base_itself_has_all_of_it(self, world):
        (comeback,) = attacked(world, world.model)["report"].attacks
        assert comeback.own.mean == pytest.approx(1, abs=1e-4)

    @pytest.mark.full
    def test_equal_seeds_give_equal_attacks(self, world, of_the_erased):
        again = attacked(world, world.erased)
        assert again["report"].attacks == of_the_erased["report"].attacks
        assert torch.equal(again["conditioning"][0][0], of_the_erased["conditioning"][0][0])

    def test_the_condition_draws_in_a_stock_sampler(self, world, of_the_erased):
        from nodes import common_ksampler

        empty = world.clip.encode_from_tokens_scheduled(world.clip.tokenize(""))
        told = of_the_erased["conditioning"]
        assert told[0][0].shape == empty[0][0].shape and not torch.equal(told[0][0], empty[0][0])
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        drawn = common_ksampler(world.erased, 0, 1, 3.0, "euler", "normal", told, empty, latent)[0]["samples"]
        assert torch.isfinite(drawn).all() and drawn.any()

    def test_both_models_stay(self, world, of_the_erased):
        assert world.model.patches == {} and world.model.model_options == {"transformer_options": {}}

    def test_passes_are_foretold(self, of_the_erased):
        done, total = of_the_erased["progress"]
        assert done == total > 100


@pytest.mark.full
def test_the_base_judges_where_there_is_no_judge(world):
    (comeback,) = attacked(world, world.erased, judge="", steps=8)["report"].attacks
    rates = dict(comeback.found)
    assert rates["untouched"].found == 2 and rates["own words"].found == 0


@pytest.mark.full
def test_a_search_brings_an_erased_cat_back(world):
    """On trajectories that it has not seen, and much more of it than its own words do."""
    found = attacked(world, world.erased, search_steps=30, trajectories=2)
    (comeback,) = found["report"].attacks
    assert comeback.attacked.mean > comeback.own.mean + 0.2 and comeback.excess > 0.1


class TestRefusals:
    """One sentence."""

    def test_another_network(self, world, tiny):
        assert attacked(world, tiny.model).message.startswith("The two MODELs have different networks: connect")

    def test_a_guided_model(self, world):
        guided = world.model.clone()
        guided.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
        assert attacked(world, guided).message.startswith("This MODEL is guided while it samples")

    def test_a_label_that_the_judge_does_not_know(self, world):
        assert attacked(world, world.erased, label="zebra").message.startswith("The playground's judge does not know")
