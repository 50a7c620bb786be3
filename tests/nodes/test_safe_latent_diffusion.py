"""Safe Latent Diffusion in the host's sampling, against the paper's equations in another form of sampling."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange

from esd_pack.esd.safe_latent_diffusion import STRENGTHS, safety_guidance, warm
from lab.reference.safe_latent_diffusion import Hyper, sample, weights
from support.family_models import RandomText
from support.graphs import Graph
from support.tiny import tiny_model

STEPS, CFG, SIDE = 10, 7.5, 8
SAFETY, PROMPT = "weapon", "a person"
PUBLISHED = {  # of 50 steps, as in the paper's table; s_S of weak as in the authors' code
    "weak": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


@pytest.fixture(scope="module")
def world(comfy, node_classes):
    """A tiny MODEL in double precision: in single, rounding alone would pass through the guidance's large scales."""
    model = tiny_model(torch.float64)
    model.model_options["transformer_options"]["optimized_attention_override"] = double_attention
    return SimpleNamespace(model=model, clip=RandomText(768), graph=lambda: Graph(comfy))


def double_attention(original, q, k, v, heads, *args, **kwargs):
    """The host's own would compute in single precision."""
    q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=heads) for each in (q, k, v))
    return rearrange(torch.nn.functional.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def guided(world, strength, concept=SAFETY):
    g = world.graph()
    node = g.add(
        "ESDSafeLatentDiffusion",
        model=g.give(world.model),
        clip=g.give(world.clip),
        concept=concept,
        strength=strength,
    )
    return g.take(model=node).run()["model"]


def levels(model, steps=STEPS):
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "normal", steps).double()


PICTURES = 2
"""With one, the host multiplies the network's answer by sigma in single precision."""


def noise_of(batch=PICTURES):
    return torch.randn((batch, 4, SIDE, SIDE), generator=torch.Generator().manual_seed(3)).double()


def drawn(world, model, sampler="euler", sigmas=None, cfg=CFG, batch=PICTURES, prompt=PROMPT):
    """Latents of the host's sampler, in the network's own scale."""
    import comfy.patcher_extension
    import comfy.sample
    import comfy.samplers

    def in_double(run, guider, sigmas, extra, callback, noise, latent, *more):
        return run(guider, sigmas, extra, callback, noise.double(), latent.double(), *more)

    model = model.clone()
    model.add_wrapper(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, in_double)  # newer hosts sample in single
    told = [world.clip.encode_from_tokens_scheduled(words) for words in (prompt, "")]
    latents = comfy.sample.sample_custom(
        model,
        noise_of(batch),
        cfg,
        comfy.samplers.sampler_object(sampler),
        levels(model) if sigmas is None else sigmas,
        *told,
        torch.zeros((batch, 4, SIDE, SIDE), dtype=torch.float64),
        disable_pbar=True,
        seed=0,
    )
    return model.model.process_latent_in(latents)


def apart(found, wanted):
    """The largest difference, as a share of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def by_the_paper(world, strength, cfg=CFG, steps=STEPS, **changed):
    """The reference's latents for the same network, noise and levels."""
    model, sigmas = world.model, levels(world.model, steps)[:-1]
    network, sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
    delta, *rest = PUBLISHED[strength]
    labels = sampling.timestep(sigmas.float()).float()

    @torch.no_grad()
    def answer(x, index, words):
        context = world.clip.encode_from_tokens_scheduled(words)[0][0].double().expand(len(x), -1, -1)
        options = {"optimized_attention_override": double_attention}
        eps = network(torch.from_numpy(x), labels[index].expand(len(x)), context=context, transformer_options=options)
        return eps.float().double().numpy()  # as the host rounds it

    first = float(sigmas[0])
    start = noise_of().numpy() * (first if first < float(sampling.sigma_max) * 0.999 else np.sqrt(1 + first**2))
    assert delta * steps % 50 == 0
    hyper = replace(Hyper(delta * steps // 50, *rest, cfg), **changed)
    return torch.from_numpy(
        sample(answer, start / np.sqrt(1 + first**2), (1 / (1 + sigmas**2)).tolist(), hyper, SAFETY, PROMPT)
    )


class TestEquations:
    """The published procedure."""

    @pytest.mark.parametrize("strength", PUBLISHED)
    def test_the_authors_hyper_parameters(self, strength):
        own = STRENGTHS[strength]
        assert PUBLISHED[strength] == (own.warmup, own.scale, own.threshold, own.momentum_scale, own.momentum_beta)

    @pytest.mark.parametrize(
        ("strength", "steps"),
        [("weak", 10), ("medium", 10), pytest.param("strong", 50, marks=pytest.mark.full), ("max", 10)],
    )
    def test_a_whole_sampling_is_the_paper_s(self, world, strength, steps):
        sigmas = levels(world.model, steps)
        found, wanted = drawn(world, guided(world, strength), sigmas=sigmas), by_the_paper(world, strength, steps=steps)
        plain = drawn(world, world.model, sigmas=sigmas)
        assert apart(found, wanted) < 1e-6 and apart(found, plain) > 1e-3

    @pytest.mark.parametrize("changed", [{"s_m": 0.0}, {"beta_m": 0.7}, {"lam": 0.0}, {"delta": 3}, {"s_S": 500.0}])
    def test_each_hyper_parameter_is_noticed(self, world, changed):
        assert apart(drawn(world, guided(world, "medium")), by_the_paper(world, "medium", **changed)) > 1e-5

    def test_one_step_by_hand(self):
        prompt, safety, null = (
            torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.0, 0.0], [0.1, 0.2, 0.002], [0.0] * 3)
        )
        made = safety_guidance(prompt, safety, null, STRENGTHS["medium"], torch.tensor([1.0, 1.0, 1.0]).double())
        # above the threshold: nothing; far below: all; near: 1000 * 0.002 is more than 1 as well
        assert made.guidance.tolist() == pytest.approx([0.3, 0.2 + 0.3, 0.002 + 0.3])
        assert made.momentum.tolist() == pytest.approx([0.4 + 0.6 * 0.3, 0.4 + 0.6 * 0.5, 0.4 + 0.6 * 0.302])

    def test_a_small_difference_has_its_share(self):
        eps_p, eps_s = np.array([0.0, 0.0]), np.array([0.0004, -0.0004])
        hyper = Hyper(0, 1000.0, 0.01, 0.0, 0.0, 1.0)
        assert weights(eps_p, eps_s, hyper).tolist() == pytest.approx([0.4, 0.4])
        zero = torch.zeros(2)
        made = safety_guidance(torch.tensor(eps_p), torch.tensor(eps_s), zero, STRENGTHS["medium"], zero)
        assert made.guidance.tolist() == pytest.approx([0.4 * 0.0004, -0.4 * 0.0004])

    def test_the_warm_up_scales_with_the_steps(self):
        assert [sum(not warm(i, n, STRENGTHS["weak"]) for i in range(n)) for n in (50, 20, 10)] == [15, 6, 3]
        assert all(warm(i, 7, STRENGTHS["max"]) for i in range(7))


class TestState:
    """What one sampling leaves to the next: nothing."""

    def test_the_momentum_begins_anew_with_each_sampling(self, world):
        model = guided(world, "strong")
        first, second = drawn(world, model), drawn(world, model)
        assert torch.equal(first, second)

    def test_also_after_one_that_was_broken_off(self, world):
        model = guided(world, "strong")
        wanted = drawn(world, model)
        calls = []

        def stop(args):
            calls.append(args["sigma"])
            if len(calls) == 4:
                raise InterruptedError
            return args["denoised"]

        broken_off = model.clone()
        broken_off.set_model_sampler_post_cfg_function(stop)
        with pytest.raises(InterruptedError):
            drawn(world, broken_off)
        assert torch.equal(drawn(world, model), wanted)

    def test_a_clone_of_the_clone_resets_what_it_uses(self, world):
        clone = guided(world, "strong").clone().clone()
        first = drawn(world, clone)
        assert torch.equal(first, drawn(world, clone)) and torch.equal(first, drawn(world, guided(world, "strong")))

    def test_another_size_or_batch_after_the_first(self, world):
        model = guided(world, "strong")
        alone = drawn(world, model)
        assert drawn(world, model, batch=3).shape[0] == 3 and torch.equal(drawn(world, model), alone)

    @pytest.mark.parametrize(("first", "warming"), [(0, 3), (5, 2)])
    def test_a_part_of_a_sampling_warms_up_by_its_own_steps(self, world, first, warming):
        """15 of 50 steps, from the first that is sampled on; the second half alone is what advanced samplers do."""
        model, seen = guided(world, "weak").clone(), []

        def look(args):
            told, untold = args["cond_denoised"], args["uncond_denoised"]
            seen.append(torch.equal(args["denoised"], untold + (told - untold) * args["cond_scale"]))
            return args["denoised"]

        model.set_model_sampler_post_cfg_function(look)
        drawn(world, model, sigmas=levels(world.model)[first:])
        assert seen == [True] * warming + [False] * (STEPS - first - warming)

    def test_the_incoming_model_stays_as_it_was(self, world):
        before = drawn(world, world.model)
        drawn(world, guided(world, "max"))
        assert torch.equal(drawn(world, world.model), before)
        assert "sampler_post_cfg_function" not in world.model.model_options and world.model.callbacks == {}


class TestSampling:
    """Other samplers, and guidance of 1."""

    @pytest.mark.parametrize("sampler", ["euler", "ddim", "lms", "dpmpp_2m", "heun", "euler_ancestral"])
    def test_samplers(self, world, sampler):
        found = drawn(world, guided(world, "medium"), sampler)
        assert torch.isfinite(found).all() and not torch.equal(found, drawn(world, world.model, sampler))

    def test_without_guidance_the_empty_prompt_is_still_asked(self, world):
        found, wanted = drawn(world, guided(world, "max"), cfg=1.0), by_the_paper(world, "max", cfg=1.0)
        assert apart(found, wanted) < 1e-6

    def test_a_prompt_that_is_the_concept(self, world):
        assert torch.isfinite(drawn(world, guided(world, "max", PROMPT))).all()


class TestRefusals:
    """One sentence."""

    def test_a_guider_without_an_empty_prompt(self, world):
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Guider_Basic

        guider = Guider_Basic(guided(world, "max"))
        guider.set_conds(world.clip.encode_from_tokens_scheduled(PROMPT))
        sampler, sigmas = comfy.samplers.sampler_object("euler"), levels(world.model).float()
        with pytest.raises(ValueError, match="This guider has no negative prompt, which Safe Latent Diffusion needs"):
            guider.sample(noise_of().float(), torch.zeros(2, 4, SIDE, SIDE), sampler, sigmas, disable_pbar=True, seed=0)

    def test_an_empty_concept(self, world):
        g = world.graph()
        node = g.add("ESDSafeLatentDiffusion", model=g.give(world.model), clip=g.give(world.clip), concept=" ")
        assert g.take(model=node).run().message.startswith("The concept is empty: type the words")

    def test_no_text_encoder(self, world):
        g = world.graph()
        node = g.add("ESDSafeLatentDiffusion", model=g.give(world.model), clip=g.give(None))
        assert g.take(model=node).run().message.startswith("No CLIP arrived")
