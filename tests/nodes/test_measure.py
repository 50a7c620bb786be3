"""Measure in the real host: known students, what it costs, what it leaves alone, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from support.graphs import Graph, slot
from support.tiny import tiny_model


@pytest.fixture(scope="module")
def world(comfy, node_classes, tiny):
    """The tiny MODEL, and an erasure of it that nobody had to train."""
    from esd_pack.esd.erasure import Erasure
    from esd_pack.nodes.host.model.apply import apply

    shapes = {name: t.shape for name, t in tiny.model.model_state_dict().items() if "attn2.to_v" in name}
    noise = torch.Generator().manual_seed(1)
    weights = Erasure({name: 0.05 * torch.randn(shape, generator=noise) for name, shape in shapes.items()})
    erased = apply(tiny.model, weights, 1.0)
    return SimpleNamespace(base=tiny.model, erased=erased, clip=tiny.clip, graph=lambda: Graph(comfy))


def measured(world, model, base=None, keep="dog\ntree", **inputs):
    g = world.graph()
    node = g.add(
        "ESDMeasure",
        model=g.give(model),
        base_model=g.give(base or world.base),
        clip=g.give(world.clip),
        concepts=g.add("ESDConcept", concept="cat"),
        keep=g.add("ESDKeep", prompts=keep),
        **{"trajectories": 1, "steps": 8, "width": 64, "height": 64, **inputs},
    )
    links = ("report", "residual", "drift", "picture", "text")
    return g.take(**{name: slot(node, i) for i, name in enumerate(links)}).run()


class TestKnownStudents:
    """MODELs whose figures are known."""

    def test_the_base_against_itself(self, world):
        found = measured(world, world.base)
        assert found["residual"] == pytest.approx(1, abs=1e-5) and found["drift"] == pytest.approx(0, abs=1e-5)
        assert found["report"].concepts[0].null_drift == pytest.approx(0, abs=1e-5)

    def test_text_attention_that_says_nothing(self, world):
        """Without its values a prompt cannot do anything, so nothing is left of it, and keeps drift by all of it."""
        import comfy.model_management

        comfy.model_management.unload_all_models()  # the patches of another MODEL may lie on the weights
        names = [n for n in world.base.model_state_dict() if ".attn2.to_v." in n]
        mute = world.base.clone()
        state = world.base.model_state_dict()
        mute.add_patches({n: ("diff", (-state[n].clone(),)) for n in names}, 1.0)
        found = measured(world, mute)
        assert found["residual"] == pytest.approx(0, abs=1e-4)
        assert found["report"].keeps[0].residual == pytest.approx(0, abs=1e-4)

    def test_it_is_what_the_live_panel_measures(self, world):
        """The same figure by the denoiser of a training whose student is the erased MODEL."""
        from esd_pack.esd.random_streams import MEASURING, stream_generator
        from esd_pack.esd.residual import as_spec, hold_out, signed_residual
        from esd_pack.esd.settings import Settings
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.run.erase import make_plan
        from esd_pack.nodes.host.run.plan import make_denoiser

        settings = Settings(num_inference_steps=8, guidance_scale=3.0, width=64, height=64, method="esd-x")
        plan = make_plan(world.base, settings)
        with torch.inference_mode(False):
            conditions = encode(plan.host, world.clip, ["", "cat"], plan.latent_shape, plan.device)
            denoiser = make_denoiser(plan, lambda passes: None)
            for name, (patch,) in world.erased.patches.items():
                with torch.no_grad():
                    denoiser.trainable[name.removeprefix("diffusion_model.")].add_(patch[1][1][0])
            (points,) = hold_out(
                denoiser, conditions, [as_spec("cat")], settings, stream_generator(settings.seed, MEASURING)
            )
            live = signed_residual(denoiser, conditions, points)
        assert measured(world, world.erased)["residual"] == pytest.approx(live, abs=1e-4) and abs(live - 1) > 1e-2


class TestAround:
    """What it costs, shows and leaves."""

    def test_an_erasure_is_between_and_shown(self, world):
        found = measured(world, world.erased, trajectories=2)
        assert found["drift"] == max(each.drift for each in found["report"].keeps) > 0.01
        assert [each.prompt for each in found["report"].keeps] == ["dog", "tree"]
        assert found["text"].splitlines()[0].startswith(f'"cat": residual {found["residual"]:.2f} (high noise')
        assert found["picture"].ndim == 4 and found["picture"].shape[3] == 3
        assert any(found["text"] in ui.get("text", ()) for ui in found.shown.values())

    def test_equal_inputs_give_equal_figures_and_both_models_stay(self, world):
        before = {name: t.clone() for name, t in world.base.model_state_dict().items()}
        first, second = measured(world, world.erased), measured(world, world.erased)
        assert first["report"] == second["report"]
        assert first["report"] != measured(world, world.erased, seed=5)["report"]
        assert all(torch.equal(before[name], t) for name, t in world.base.model_state_dict().items())
        assert world.base.patches == {} and world.erased.patches

    def test_no_keeps(self, world):
        g = world.graph()
        node = g.add(
            "ESDMeasure", model=g.give(world.base), base_model=g.give(world.base), clip=g.give(world.clip),
            concepts=g.add("ESDConcept", concept="cat"), trajectories=1, steps=4, width=64, height=64,
        )  # fmt: skip
        assert math.isnan(g.take(drift=slot(node, 2)).run()["drift"])

    def test_progress_counts_every_pass(self, world, monkeypatch):
        import comfy.utils

        seen = []
        monkeypatch.setattr(
            comfy.utils.ProgressBar,
            "update_absolute",
            lambda bar, value, total=None, preview=None: seen.append((value, total)),
        )
        measured(world, world.erased, keep="dog")
        assert seen[-1][0] == seen[-1][1] == 2 * 36


class TestRefusals:
    """One sentence."""

    def test_another_network(self, world):
        import comfy.model_patcher
        import comfy.supported_models

        from support import tiny

        config = comfy.supported_models.SD15({**tiny.CONFIG, "model_channels": 64})
        config.set_inference_dtype(torch.float32, None)
        made = config.get_model({}, "", device=torch.device("cpu"))
        other = comfy.model_patcher.ModelPatcher(made, torch.device("cpu"), torch.device("cpu"))
        assert measured(world, other).message.startswith("The two MODELs have different networks: connect")

    def test_another_kind_of_prediction(self, world):
        from comfy_extras import nodes_model_advanced

        other = nodes_model_advanced.ModelSamplingDiscrete().patch(tiny_model(), "v_prediction", False)[0]
        assert measured(world, other).message.startswith("The two MODELs predict different things")

    def test_no_text_encoder(self, world):
        from esd_pack.esd.concepts import make_concept
        from esd_pack.esd.errors import EsdError
        from esd_pack.nodes.host.model.measure import MeasureChoice, measure_models

        with pytest.raises(EsdError, match="No CLIP arrived"):
            measure_models(world.base, world.base, None, [make_concept("cat")], (), MeasureChoice(1, 4, 0, 64, 64))
