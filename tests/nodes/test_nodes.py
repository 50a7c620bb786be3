"""The nodes in the real host, queued in this process on its own executor with the playground checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.graphs import NODES, Graph, slot
from support.host_folders import searched

ROOT = Path(__file__).resolve().parents[2]
NAME = "emoji-world.ckpt"
PREFIX = "diffusion_model."
TEXT_ATTENTION = 20
"""Tensors that esd-x trains in the playground network."""


@pytest.fixture(scope="module")
def folders(comfy, comfy_base):
    """The host's folders in this process; what is saved into output/checkpoints and the like can be loaded."""
    kinds = ("checkpoints", "loras", "diffusion_models")
    for kind in kinds:
        (comfy_base / "models" / kind).mkdir(exist_ok=True)
    with searched(comfy_base / "output", kinds):
        yield SimpleNamespace(output=comfy_base / "output", models=comfy_base / "models")


@pytest.fixture(scope="module")
def graph(comfy, node_classes, folders):
    """Makes an empty graph."""
    return lambda: Graph(comfy)


@pytest.fixture(scope="module")
def world(graph):
    """The playground checkpoint, loaded once by the pack's own node."""
    g = graph()
    loaded = g.add("ESDLoadModel", ckpt_name=NAME)
    outcome = g.take(model=loaded, clip=slot(loaded, 1), vae=slot(loaded, 2)).run()
    assert outcome.shown["1"]["text"] == ["SD1.x"]
    model, clip, vae = outcome["model"], outcome["clip"], outcome["vae"]
    g = graph()
    words, nothing = (g.add("CLIPTextEncode", clip=g.give(clip), text=text) for text in ("cat", ""))
    encoded = g.take(words=words, nothing=nothing).run()
    return SimpleNamespace(model=model, clip=clip, vae=vae, words=encoded["words"], nothing=encoded["nothing"])


QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "samples_per_trajectory": 2,
    "strided": False,
    "trajectory_batch": 2,
    "buffer_size": 8,
    "contexts": "own words",
    "closed_form": False,
}

SHORT = {
    "steps": 4,
    "learning_rate": 3e-5,
    "preview_every": 0,
    "snapshot_every": 0,
    "start": "start over",
    "stop": "after all steps",
}


def add_erase(g, model, clip, concept="cat", settings=None, **inputs):
    """The nodes of a short run; returns the link of its MODEL."""
    concepts = concept if isinstance(concept, list) else g.add("ESDConcept", concept=concept)
    more = g.add("ESDEraseSettings", **{**QUICK, **(settings or {})})
    return g.add("ESDErase", model=model, clip=clip, concepts=concepts, settings=more, **{**SHORT, **inputs})


def erase(graph, world, **inputs):
    """A short run on a MODEL of the test."""
    g = graph()
    erased = add_erase(g, g.give(world.model), g.give(world.clip), **inputs)
    return g.take(model=erased, weights=slot(erased, 1), losses=slot(erased, 2)).run()


@pytest.fixture(scope="module")
def erased(graph, world):
    """One short run's results, for the tests that need any."""
    outcome = erase(graph, world)
    return SimpleNamespace(model=outcome["model"], weights=outcome["weights"], losses=outcome["losses"])


def add_samples(g, model, words, nothing, seed=0):
    """Two steps of the stock KSampler; returns the link of its latent."""
    empty = g.add("EmptyLatentImage", width=64, height=64)
    return g.add(
        "KSampler",
        model=model,
        positive=words,
        negative=nothing,
        latent_image=empty,
        seed=seed,
        steps=2,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
    )


def add_encoded_samples(g, model, clip):
    """The same, with the prompts through a text encoder."""
    words, nothing = (g.add("CLIPTextEncode", clip=clip, text=text) for text in ("cat", ""))
    return add_samples(g, model, words, nothing)


def samples(graph, world, model):
    """The latent of the stock KSampler."""
    g = graph()
    return g.take(latent=add_samples(g, g.give(model), g.give(world.words), g.give(world.nothing))).run()["latent"][
        "samples"
    ]


def weights_of(model):
    """The weights of a MODEL as they would be sampled with, its patches applied by the host's own arithmetic."""
    import comfy.lora

    patches = model.get_key_patches(PREFIX)
    return {
        key: comfy.lora.calculate_weight(rest, weight.float().clone(), key)
        for key, ((weight, _), *rest) in patches.items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def bits(tensor):
    """A copy of a tensor's bytes: the host leaves weights that a file lacks uninitialised, and NaN is unlike itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).clone()


@pytest.fixture
def untouched(graph, world, erased):
    """Holds the incoming MODEL, CLIP and VAE, what is sampled from it, and the host's own code to what they were."""

    def state():
        parts = (world.model.model, world.clip.cond_stage_model, world.vae.first_stage_model)
        return {f"{i}.{k}": bits(t) for i, part in enumerate(parts) for k, t in part.state_dict().items()}

    def carried():
        m = world.model
        return (dict(m.patches), dict(m.object_patches), dict(m.weight_wrapper_patches), json.dumps(m.model_options))

    latent = samples(graph, world, world.model)
    before, carried_before, host_before = state(), carried(), host_state(world.model)
    yield
    host_after = host_state(world.model)
    assert {key for key in host_before | host_after if host_before.get(key) != host_after.get(key)} == set()
    after = state()
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert carried() == carried_before
    assert torch.equal(latent, samples(graph, world, world.model))


def host_state(model):
    """Every function and class of the host's modules, and what hangs on a MODEL's modules, by identity."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("comfy", "nodes", "execution", "folder_paths", "latent_preview"):
            continue
        for key, value in list(vars(module).items()):
            if callable(value):
                found[name, key] = id(value)
            if isinstance(value, type):
                found.update(
                    {(name, key, attribute): id(v) for attribute, v in list(vars(value).items()) if callable(v)}
                )
    for name, module in model.model.named_modules():
        found["module", name] = tuple(sorted(module.__dict__)), tuple(map(id, module._parameters.values()))
    return found


class TestErase:
    """A run and what it leaves behind."""

    def test_a_run_changes_the_selected_weights_alone(self, world, erased):
        assert len(erased.weights.differences) == TEXT_ATTENTION
        before, after = weights_of(world.model), weights_of(erased.model)
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == set(erased.weights.differences) == {key for key in before if ".attn2." in key}

    def test_the_model_is_a_clone_that_shares_its_network(self, world, erased):
        assert erased.model is not world.model
        assert erased.model.model is world.model.model

    def test_losses_are_a_loss_map_of_every_step(self, erased):
        assert len(erased.losses["loss"]) == 4
        assert all(isinstance(loss, float) and math.isfinite(loss) and loss > 0 for loss in erased.losses["loss"])

    def test_the_stock_loss_graph_draws_them(self, load_extra, graph, erased):
        load_extra("nodes_train")
        g = graph()
        g.add("LossGraphNode", loss=g.give(erased.losses), filename_prefix="loss")
        outcome = g.run()
        assert outcome.ending == "execution_success", outcome.message
        assert outcome.shown["2"]["images"]

    def test_nothing_is_touched_by_a_run(self, graph, world, untouched):
        assert erase(graph, world, settings={"gradient_checkpointing": "on"}).ending == "execution_success"

    @pytest.mark.full
    def test_nothing_is_touched_by_a_failed_run(self, graph, world, untouched):
        outcome = erase(
            graph, world, method="esd-all", learning_rate=1.0, steps=30, settings={"gradient_checkpointing": "on"}
        )
        assert outcome.ending == "execution_error"
        assert re.match(r"The loss became (nan|inf) at step \d+, so .* lower the learning rate", outcome.message)

    @pytest.mark.parametrize("tick", [2, 6], ids=["walking", "training"])
    def test_nothing_is_touched_by_a_cancelled_run(self, graph, world, untouched, tick):
        with cancelling_at(tick) as seen:
            outcome = erase(graph, world, settings={"gradient_checkpointing": "on"})
        assert (outcome.ending, outcome.node_type) == ("execution_interrupted", "ESDErase")
        assert len(seen) == tick

    def test_the_run_after_a_cancelled_one_gives_the_same_bits(self, graph, world, erased):
        with cancelling_at(5):
            assert erase(graph, world).ending == "execution_interrupted"
        assert same(erase(graph, world)["weights"].differences, erased.weights.differences)

    def test_same_seed_same_weights_bit_for_bit(self, graph, world, erased):
        again, other = erase(graph, world), erase(graph, world, seed=1)
        assert same(again["weights"].differences, erased.weights.differences)
        assert again["losses"] == erased.losses
        assert not same(other["weights"].differences, erased.weights.differences)

    def test_progress_ends_full_and_never_falls(self, graph, world):
        with recording() as seen:
            assert erase(graph, world).ending == "execution_success"
        values, totals = zip(*seen, strict=True)
        assert list(values) == sorted(values) and len(set(totals)) == 1
        assert values[-1] >= 0.9 * totals[-1]

    @pytest.mark.full
    def test_gradient_checkpointing_changes_nothing(self, graph, world):
        on, off = (
            erase(graph, world, settings={"gradient_checkpointing": c}, method="esd-all", steps=2)
            for c in ("on", "off")
        )
        for name, difference in off["weights"].differences.items():
            assert torch.linalg.norm(on["weights"].differences[name] - difference) <= 1e-6 * torch.linalg.norm(
                difference
            )

    def test_several_concepts_and_keeps(self, graph, world, erased):
        g = graph()
        first = g.add("ESDConcept", concept="cat")
        both = g.add("ESDConcept", concept="hat", erase_from="cowboy", previous=first)
        kept = g.add("ESDKeep", prompts="dog\nhat", previous=g.add("ESDKeep", prompts="cat", weight=0.0))
        run = add_erase(g, g.give(world.model), g.give(world.clip), concept=both, keep=kept)
        weights = g.take(weights=slot(run, 1)).run()["weights"]
        recorded = weights.metadata
        assert [c["erase"] for c in json.loads(recorded["esd.concepts"])] == ["cat", "hat"]
        assert [k["prompts"] for k in json.loads(recorded["esd.keeps"])] == [["cat"], ["dog", "hat"]]
        assert not same(weights.differences, erased.weights.differences)

    def test_a_keep_of_weight_0_is_exactly_esd(self, graph, world, erased):
        g = graph()
        keep = g.add("ESDKeep", prompts="cat", weight=0.0)
        run = add_erase(g, g.give(world.model), g.give(world.clip), keep=keep)
        assert same(g.take(weights=slot(run, 1)).run()["weights"].differences, erased.weights.differences)

    def test_a_preset_wins_over_the_fields(self, graph, world):
        """Checked before training, by the sentence that says which method fails."""
        g = graph()
        settings = {**QUICK, "preset": "paper-2023"}
        concepts, more = g.add("ESDConcept", concept="cat"), g.add("ESDEraseSettings", **settings)
        run = g.add("ESDErase", model=g.give(world.model), clip=g.give(world.clip), concepts=concepts, settings=more)
        with cancelling_at(1) as seen:
            assert g.take(model=run).run().ending == "execution_interrupted"
        assert seen[0][1] > 1000 * 50  # a thousand steps of walks of up to 50 levels


class _Ticks:
    """Listens to the host's progress bars, and raises its interrupt flag at one of their ticks."""

    def __init__(self, tick=None):
        self.tick, self.seen = tick, []

    def __call__(self, value, total, preview=None, node_id=None):
        import comfy.model_management

        self.seen.append((value, total))
        if len(self.seen) == self.tick:
            comfy.model_management.interrupt_current_processing()

    def __enter__(self):
        import comfy.utils

        self.before = comfy.utils.PROGRESS_BAR_HOOK
        comfy.utils.set_progress_bar_global_hook(self)
        return self.seen

    def __exit__(self, *error):
        import comfy.utils

        comfy.utils.set_progress_bar_global_hook(self.before)


def cancelling_at(tick):
    """Cancels as the button does, at the given tick of the progress bar."""
    return _Ticks(tick)


def recording():
    """Notes every tick."""
    return _Ticks()


class TestDenoiser:
    """The private network behind a run: two faces over the host's own memory."""

    @pytest.fixture
    def denoiser(self, world):
        """A fresh one for the playground's esd-x, with gradient checkpointing."""
        from esd_pack.esd.settings import Settings
        from esd_pack.nodes.host.run import erase as host

        plan = host.make_plan(world.model, Settings(width=64, height=64, gradient_checkpointing="on"))
        return host.make_denoiser(plan, lambda samples: None)

    @pytest.fixture
    def question(self, world):
        """x, sigma and condition of two samples, as ordinary tensors."""
        from esd_pack.esd.denoiser import Condition

        random = torch.Generator().manual_seed(0)
        context = torch.cat([world.words[0][0].clone(), world.nothing[0][0].clone()]).float()
        return (
            torch.randn((2, 4, 8, 8), generator=random),
            torch.tensor([5.0, 0.5]),
            Condition({"c_crossattn": context}),
        )

    def move(self, denoiser):
        with torch.no_grad():
            for weight in denoiser.trainable.values():
                weight += 0.01

    def test_the_base_answers_as_the_host_s_own_model(self, world, denoiser, question):
        x, sigma, condition = question
        with torch.no_grad():
            expected = world.model.model.apply_model(x, sigma, c_crossattn=condition.tensors["c_crossattn"])
            found = denoiser.denoised(denoiser.predict(*question), x, sigma)
        assert torch.linalg.norm(found - expected) < 1e-5 * torch.linalg.norm(expected)

    def test_the_base_s_weights_are_the_host_s_memory(self, world, denoiser):
        """One network in memory, never two."""
        ours = {PREFIX + name: weight.data_ptr() for name, weight in denoiser.network.named_parameters()}
        assert ours == {name: weight.data_ptr() for name, weight in world.model.model_state_dict(PREFIX).items()}

    def test_the_student_starts_as_the_base_and_the_base_stays(self, denoiser, question):
        with torch.no_grad():
            before = denoiser.predict(*question)
            with denoiser.student():
                assert torch.equal(denoiser.predict(*question), before)
            self.move(denoiser)
            assert torch.equal(denoiser.predict(*question), before)
            with denoiser.student():
                assert not torch.allclose(denoiser.predict(*question), before, atol=1e-3)
            assert torch.equal(denoiser.predict(*question), before)

    def test_difference_is_student_minus_base(self, denoiser):
        self.move(denoiser)
        found = denoiser.difference()
        assert len(found) == TEXT_ATTENTION
        for name, weight in denoiser.network.named_parameters():
            if name in found:
                assert torch.equal(found[name], denoiser.trainable[name] - weight)

    @pytest.mark.parametrize("fails", [False, True])
    def test_closing_the_student_leaves_its_network_as_it_was(self, denoiser, question, fails):
        def state():
            return {n: (set(m.__dict__), *map(id, m._parameters.values())) for n, m in denoiser.network.named_modules()}

        before = state()
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), denoiser.student():
            assert state() != before
            denoiser.predict(*question).square().mean().backward()
            if fails:
                raise ZeroDivisionError
        assert state() == before
        assert all(weight.grad.abs().max() > 0 for weight in denoiser.trainable.values())

    def test_the_walk_s_levels_are_the_network_s_own_timesteps(self, world, denoiser):
        """Leading spacing with offset 1, as published: labels 981, 961 ... 1, each exactly on the trained schedule."""
        sigmas = denoiser.sigmas(50)
        assert sigmas[-1] == 0 and len(sigmas) == 51
        assert denoiser.sampling.timestep(sigmas[:-1]).tolist() == list(range(981, 0, -20))
        assert torch.equal(sigmas[:-1], world.model.get_model_object("model_sampling").sigmas[range(981, 0, -20)])

    def test_each_network_call_asks_for_the_cancel_flag(self, comfy):
        import comfy.model_management as management

        from esd_pack.nodes.host.progress import Progress

        progress = Progress(10)
        progress.advance(4)
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            progress.advance(4)
        progress.advance(2)  # the flag is taken

    def test_updates_smaller_than_the_network_s_precision_are_kept(self, graph, world):
        """At 1e-6 a weight in bf16 would never move."""
        weights = erase(graph, world, settings={"precision": "bf16"}, learning_rate=1e-6, steps=1)["weights"]
        for name, difference in weights.differences.items():
            assert difference.dtype == torch.float32, name
            assert 0 < difference.abs().max() < 2e-6, name
        assert max(difference.abs().max() for difference in weights.differences.values()) > 9e-7


class TestApply:
    """The strength dial."""

    def applied(self, graph, world, weights, strength):
        g = graph()
        return g.take(m=g.add("ESDApply", model=g.give(world.model), weights=g.give(weights), strength=strength)).run()

    def test_strength_0_is_the_original_bit_for_bit(self, graph, world, erased):
        model = self.applied(graph, world, erased.weights, 0.0)["m"]
        assert same(weights_of(model), weights_of(world.model))
        assert torch.equal(samples(graph, world, model), samples(graph, world, world.model))

    def test_strength_1_is_erased(self, graph, world, erased):
        model = self.applied(graph, world, erased.weights, 1.0)["m"]
        assert same(weights_of(model), weights_of(erased.model))
        after = samples(graph, world, model)
        assert torch.equal(after, samples(graph, world, erased.model))
        assert not torch.equal(after, samples(graph, world, world.model))

    def test_strength_scales_the_difference(self, graph, world, erased):
        model = self.applied(graph, world, erased.weights, -2.5)["m"]
        base, after = weights_of(world.model), weights_of(model)
        for name, difference in erased.weights.differences.items():
            assert torch.allclose(after[name] - base[name], -2.5 * difference, atol=1e-6)

    def test_weights_of_another_family_are_refused(self, graph, world, erased):
        name, tensor = next(iter(erased.weights.differences.items()))
        for differences in ({name: tensor[:, :5]}, {"diffusion_model.joint_blocks.0.weight": tensor}):
            other = type(erased.weights)(differences)
            outcome = self.applied(graph, world, other, 1.0)
            assert outcome.ending == "execution_error"
            assert re.match(
                r"These weights were made for another kind of model \(.*apply them to the model family", outcome.message
            )


@pytest.fixture(scope="module")
def saved(graph, world, erased, folders):
    """The checkpoint and the weights of one run, and the erased MODEL's latent."""
    g = graph()
    model, clip, weights = g.give(erased.model), g.give(world.clip), g.give(erased.weights)
    whole = g.add(
        "ESDSaveCheckpoint",
        model=model,
        clip=clip,
        vae=g.give(world.vae),
        weights=weights,
        precision="as loaded",
        filename_prefix="checkpoints/whole",
    )
    alone = g.add("ESDSaveErasure", weights=weights, filename_prefix="loras/alone")
    outcome = g.take(latent=add_encoded_samples(g, model, clip)).run()
    assert outcome.ending == "execution_success", outcome.message
    return SimpleNamespace(
        checkpoint=folders.output / "checkpoints" / "whole_00001_.safetensors",
        weights=folders.output / "loras" / "alone_00001_.safetensors",
        shown=(outcome.shown[whole[0]], outcome.shown[alone[0]]),
        latent=outcome["latent"]["samples"],
    )


class TestFiles:
    """What is saved, through the stock loaders and samplers."""

    def test_the_nodes_show_the_files(self, saved, folders):
        for shown, path in zip(saved.shown, (saved.checkpoint, saved.weights), strict=True):
            (file,) = shown["esd_files"]
            assert folders.output / file["subfolder"] / file["filename"] == path
            assert path.is_file() and path.name in shown["text"][0]

    def test_the_reloaded_checkpoint_samples_the_same_bits(self, graph, saved):
        g = graph()
        loaded = g.add("CheckpointLoaderSimple", ckpt_name=saved.checkpoint.name)
        latent = g.take(latent=add_encoded_samples(g, loaded, slot(loaded, 1))).run()["latent"]["samples"]
        assert torch.equal(latent, saved.latent)

    def test_the_base_with_the_weights_as_a_lora_samples_the_same_bits(self, graph, world, saved):
        g = graph()
        lora = g.add(
            "LoraLoader",
            model=g.give(world.model),
            clip=g.give(world.clip),
            lora_name=saved.weights.name,
            strength_model=1.0,
            strength_clip=1.0,
        )
        latent = g.take(latent=add_encoded_samples(g, lora, slot(lora, 1))).run()["latent"]["samples"]
        assert torch.equal(latent, saved.latent)
        assert not torch.equal(latent, samples(graph, world, world.model))

    def test_the_weights_file_holds_the_differences_alone(self, saved, erased):
        tensors = load_file(saved.weights)
        expected = {
            name.replace(".weight", ".diff").replace(".bias", ".diff_b"): t
            for name, t in erased.weights.differences.items()
        }
        assert same(tensors, expected)

    def test_metadata_tells_where_the_files_come_from(self, saved):
        for path in (saved.checkpoint, saved.weights):
            with safe_open(path, "pt") as file:
                found = file.metadata()
            assert [c["erase"] for c in json.loads(found["esd.concepts"])] == ["cat"]
            assert (found["esd.method"], found["esd.steps"], found["esd.seed"]) == ("esd-x", "4", "0")
            assert float(found["esd.eta"]) == 1.0 and float(found["esd.learning_rate"]) == 3e-5
            assert json.loads(found["esd.settings"])["num_inference_steps"] == 4
            assert re.fullmatch(r"\d+\.\d+\.\d+", found["esd.version"])

    def test_the_base_file_and_its_hash_are_recorded(self, graph):
        import hashlib

        g = graph()
        loaded = g.add("CheckpointLoaderSimple", ckpt_name=NAME)
        weights = g.take(w=slot(add_erase(g, loaded, slot(loaded, 1), steps=1), 1)).run()["w"]
        assert weights.metadata["esd.base_file"] == NAME
        expected = hashlib.sha256((ROOT / "workflows" / "models" / NAME).read_bytes()).hexdigest()
        assert weights.metadata["esd.base_sha256"] == expected

    def test_a_second_save_takes_the_next_number(self, graph, erased, folders):
        for number in (1, 2):
            g = graph()
            g.add("ESDSaveErasure", weights=g.give(erased.weights), filename_prefix="more/again")
            assert g.run().ending == "execution_success"
            assert (folders.output / "more" / f"again_{number:05}_.safetensors").is_file()


@pytest.fixture(scope="module")
def patched(graph, world, folders):
    """The playground MODEL with a random full-difference LoRA on text attention and on a convolution."""
    random = torch.Generator().manual_seed(0)
    shapes = {k: t.shape for k, t in world.model.model_state_dict(PREFIX).items() if k.endswith("to_k.weight")}
    shapes |= {"diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
    lora = {k.replace(".weight", ".diff"): 0.02 * torch.randn(s, generator=random) for k, s in shapes.items()}
    save_file(lora, folders.models / "loras" / "random.safetensors")
    g = graph()
    loaded = g.add(
        "LoraLoader",
        model=g.give(world.model),
        clip=g.give(world.clip),
        lora_name="random.safetensors",
        strength_model=0.8,
        strength_clip=1.0,
    )
    model = g.take(m=loaded).run()["m"]
    assert len(model.patches) == len(shapes)
    return SimpleNamespace(model=model, clip=world.clip, vae=world.vae)


class TestLora:
    """A LoRA on the incoming MODEL: the erasure applies to what the user sees, and both stack."""

    def test_the_erasure_equals_one_on_the_baked_model(self, load_extra, graph, patched, world, erased):
        """The MODEL with its LoRA baked in by the stock saver gives the same differences, bit for bit."""
        load_extra("nodes_model_merging")
        g = graph()
        g.add("ModelSave", model=g.give(patched.model), filename_prefix="diffusion_models/baked")
        assert g.run().ending == "execution_success"
        g = graph()
        baked = g.add("UNETLoader", unet_name="baked_00001_.safetensors", weight_dtype="default")
        expected = g.take(w=slot(add_erase(g, baked, g.give(world.clip)), 1)).run()["w"].differences
        found = erase(graph, patched)["weights"].differences
        assert same(found, expected)
        assert not same(found, erased.weights.differences)

    def test_both_stack_in_the_result(self, graph, patched, world):
        outcome = erase(graph, patched)
        base, with_lora, result = (weights_of(m) for m in (world.model, patched.model, outcome["model"]))
        differences = outcome["weights"].differences
        for name in base:
            lora = with_lora[name] - base[name]
            assert torch.allclose(result[name], base[name] + lora + differences.get(name, 0.0), atol=1e-6)
        assert len(patched.model.patches) < len(outcome["model"].patches)

    def test_a_stock_lora_after_the_erasure_stacks_too(self, graph, erased, patched, world):
        g = graph()
        loaded = g.add(
            "LoraLoaderModelOnly", model=g.give(erased.model), lora_name="random.safetensors", strength_model=0.8
        )
        base, with_lora, result = (weights_of(m) for m in (world.model, patched.model, g.take(m=loaded).run()["m"]))
        for name, difference in erased.weights.differences.items():
            assert torch.allclose(result[name], with_lora[name] + difference, atol=1e-6)
            assert not torch.equal(result[name], base[name])


class TestBeforeAfter:
    """The picture of both."""

    def drawn(self, graph, world, before, after, prompts):
        g = graph()
        node = g.add(
            "ESDBeforeAfter",
            model_before=g.give(before),
            model_after=g.give(after),
            clip=g.give(world.clip),
            vae=g.give(world.vae),
            prompts=prompts,
            steps=2,
            cfg=3.0,
            width=64,
            height=64,
        )
        return g.take(grid=node, before=slot(node, 1), after=slot(node, 2)).run()

    def test_two_batches_and_one_labelled_picture(self, graph, world, erased):
        outcome = self.drawn(graph, world, world.model, erased.model, "cat\n" * 9 + "\n")
        assert outcome["before"].shape == outcome["after"].shape == (9, 64, 64, 3)
        assert not torch.equal(outcome["before"], outcome["after"])
        grid = outcome["grid"]
        assert grid.shape[0] == 1 and grid.shape[2] > 8 * 128 and grid.shape[1] > 4 * 128  # nine columns wrap
        assert 0 <= grid.min() and grid.max() <= 1

    def test_the_same_model_twice_is_the_same_picture_twice(self, graph, world):
        outcome = self.drawn(graph, world, world.model, world.model, "cat\ncat")
        assert torch.equal(outcome["before"], outcome["after"])
        assert not torch.equal(outcome["before"][0], outcome["before"][1])  # the next line takes the next seed

    def test_a_picture_is_ksampler_s_own(self, graph, world):
        g = graph()
        model, clip = g.give(world.model), g.give(world.clip)
        latent = add_samples(g, model, g.give(world.words), g.give(world.nothing), seed=5)
        stock = g.add("VAEDecode", samples=latent, vae=g.give(world.vae))
        ours = g.add(
            "ESDBeforeAfter",
            model_before=model,
            model_after=model,
            clip=clip,
            vae=g.give(world.vae),
            prompts="cat",
            steps=2,
            cfg=3.0,
            width=64,
            height=64,
            seed=5,
        )
        outcome = g.take(stock=stock, ours=slot(ours, 1)).run()
        assert torch.equal(outcome["stock"], outcome["ours"])

    def test_no_prompts_are_refused(self, graph, world):
        outcome = self.drawn(graph, world, world.model, world.model, " \n")
        assert outcome.message == "There are no prompts to draw: write one prompt a line."


class TestErrors:
    """Each mistake ends in one sentence with its cause and its cure, before anything is computed where it can."""

    def refused(self, outcome, message, node_type="ESDErase", ending="execution_error"):
        assert (outcome.ending, outcome.node_type) == (ending, node_type), outcome.message
        assert re.match(message, outcome.message), outcome.message
        assert "\n" not in outcome.message

    @pytest.fixture
    def no_network_call(self):
        """Nothing was walked or trained: the progress bar never moved."""
        with recording() as seen:
            yield
        assert seen == []

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"concept": ""}, "The concept is empty: type the words"),
            ({"concept": " \t"}, "The concept is empty: type the words"),
            ({"concept": "cat", "erase_from": "cat "}, '"erase from" equals the concept "cat": leave it empty'),
            ({"concept": "cat", "replace_with": "cat"}, '"replace with" equals the prompt it replaces'),
        ],
    )
    def test_concepts(self, graph, fields, message):
        g = graph()
        self.refused(g.take(c=g.add("ESDConcept", **fields)).run(), message, "ESDConcept")

    def test_keeps_without_prompts(self, graph):
        g = graph()
        self.refused(g.take(k=g.add("ESDKeep", prompts=" \n")).run(), "There are no prompts to keep", "ESDKeep")

    @pytest.mark.parametrize("settings", [{"width": 100}, {"height": 4}])
    def test_sizes_that_do_not_fit(self, graph, world, settings, no_network_call):
        self.refused(
            erase(graph, world, settings=settings), r"The size \d+ x \d+ does not fit: both must be multiples of 8"
        )

    def test_a_method_that_selects_nothing(self, graph, world, no_network_call):
        self.refused(
            erase(graph, world, method="xlayer"), 'The method "xlayer" selects no weight of this model: choose'
        )

    def test_not_enough_memory(self, graph, world, no_network_call, monkeypatch):
        import comfy.model_management

        def little(device=None, torch_free_too=False):
            return (2**20, 0) if torch_free_too else 2**20

        monkeypatch.setattr(comfy.model_management, "get_free_memory", little)
        self.refused(erase(graph, world), r"This run needs about \d+\.\d\d GB on cpu and 0\.00 GB are free: choose")

    @pytest.mark.parametrize("loader", ["CheckpointLoaderSimple", "ESDLoadModel"])
    def test_a_checkpoint_without_text_encoder(self, graph, playground_parts, loader, no_network_call):
        g = graph()
        loaded = g.add(loader, ckpt_name=playground_parts.network_alone)
        outcome = g.take(model=add_erase(g, loaded, slot(loaded, 1))).run()
        self.refused(outcome, "No CLIP arrived: this checkpoint has no text encoder, so connect one with Load CLIP")

    def test_load_model_says_what_is_missing(self, graph, playground_parts):
        g = graph()
        g.take(m=g.add("ESDLoadModel", ckpt_name=playground_parts.network_alone))
        shown = g.run().shown
        assert shown["1"]["text"] == ["SD1.x, without text encoder and VAE: load it separately"]

    @pytest.mark.parametrize("missing", ["clip", "vae"])
    def test_before_after_without_text_encoder_or_vae(self, graph, world, playground_parts, missing, no_network_call):
        g = graph()
        loaded = g.add("CheckpointLoaderSimple", ckpt_name=playground_parts.network_alone)
        model = g.give(world.model)
        parts = {"clip": g.give(world.clip), "vae": g.give(world.vae)}
        parts[missing] = slot(loaded, 1 if missing == "clip" else 2)
        node = g.add(
            "ESDBeforeAfter",
            model_before=model,
            model_after=model,
            prompts="cat",
            width=64,
            height=64,
            steps=1,
            **parts,
        )
        self.refused(g.take(picture=node).run(), f"No {missing.upper()} arrived: connect", "ESDBeforeAfter")

    @pytest.mark.parametrize("missing", ["clip", "vae"])
    def test_a_checkpoint_cannot_be_saved_without_text_encoder_or_vae(
        self, graph, world, playground_parts, folders, missing
    ):
        g = graph()
        loaded = g.add("CheckpointLoaderSimple", ckpt_name=playground_parts.network_alone)
        parts = {"clip": g.give(world.clip), "vae": g.give(world.vae)}
        parts[missing] = slot(loaded, 1 if missing == "clip" else 2)
        g.add("ESDSaveCheckpoint", model=g.give(world.model), filename_prefix="incomplete/x", **parts)
        self.refused(g.run(), f"No {missing.upper()} arrived: connect", "ESDSaveCheckpoint")
        assert not list(folders.output.rglob("incomplete/*"))

    @pytest.mark.parametrize("loader", ["CheckpointLoaderSimple", "ESDLoadModel"])
    def test_an_inpainting_model(self, graph, world, playground_parts, loader, no_network_call):
        g = graph()
        loaded = g.add(loader, ckpt_name=playground_parts.inpainting)
        outcome = g.take(model=add_erase(g, loaded, g.give(world.clip))).run()
        asked = "ESDLoadModel" if loader == "ESDLoadModel" else "ESDErase"
        self.refused(
            outcome, r"This is an inpainting or image-editing model \(9 input channels\).*: load the ordinary", asked
        )

    @pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
    def test_fp8_weights(self, graph, world, playground_parts, dtype, no_network_call):
        g = graph()
        model = g.add("UNETLoader", unet_name=playground_parts.unet, weight_dtype=dtype)
        outcome = g.take(model=add_erase(g, model, g.give(world.clip))).run()
        self.refused(
            outcome, r"The weights of this MODEL are quantised \(.* is torch.float8.*\).*: load the fp16, bf16 or fp32"
        )

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("SDXLRefiner", "SDXL refiner"),
            ("SVD_img2vid", "video model"),
        ],
    )
    def test_other_kinds_of_model(self, graph, world, kind, words, no_network_call):
        outcome = erase(graph, SimpleNamespace(model=without_memory(kind), clip=world.clip))
        expected = r"This model is an? %s.*, which ESD cannot erase from here: load a model of the family SD1.x"
        self.refused(outcome, expected % re.escape(words))

    def test_something_that_is_no_model(self, graph, world, no_network_call):
        self.refused(
            erase(graph, SimpleNamespace(model=None, clip=world.clip)), "No MODEL arrived: connect the MODEL output"
        )

    @pytest.mark.parametrize(
        ("prefix", "message"),
        [
            ("../outside", "The file name .* leaves the output folder: use a name"),
            ("a/../../outside", "The file name .* leaves the output folder: use a name"),
            ("/tmp/outside", "The file name .* leaves the output folder: use a name"),
            ("file/x", 'The folder for "file/x" cannot be used .*: choose another name'),
            (" ", "The file name is empty: type a name"),
        ],
    )
    @pytest.mark.parametrize("node_type", ["ESDSaveCheckpoint", "ESDSaveErasure"])
    def test_file_names_that_cannot_be_used(self, graph, world, erased, folders, prefix, message, node_type):
        """Refused before anything runs where the name is typed, and by the node where a link brings it."""
        (folders.output / "file").touch()
        before = set(folders.output.rglob("*"))
        for typed in (True, False):
            g = graph()
            if node_type == "ESDSaveCheckpoint":
                parts = {"model": g.give(world.model), "clip": g.give(world.clip), "vae": g.give(world.vae)}
            else:
                parts = {"weights": g.give(erased.weights)}
            g.add(node_type, filename_prefix=prefix if typed else g.give(prefix), **parts)
            self.refused(g.run(), message, node_type, "refused" if typed else "execution_error")
        assert set(folders.output.rglob("*")) == before
        assert not list(folders.output.parent.glob("outside*")) and not list(Path("/tmp").glob("outside_0*"))

    def test_a_checkpoint_that_is_gone(self, graph):
        """By a link, which no host checks; newer hosts refuse a typed name before anything runs."""
        g = graph()
        g.take(m=g.add("ESDLoadModel", ckpt_name=g.give("../gone.safetensors")))
        self.refused(
            g.run(), 'There is no checkpoint "../gone.safetensors": put it into models/checkpoints', "ESDLoadModel"
        )


@pytest.fixture(scope="module")
def playground_parts(checkpoint, folders):
    """Files cut from the playground: its network as a checkpoint without CLIP and VAE, as a UNet, with 9 channels."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "model.diffusion_model."
    network = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    torch.save({"state_dict": network}, checkpoint.with_name("network-alone.ckpt"))
    first = f"{prefix}input_blocks.0.0.weight"
    wide = {
        **network,
        first: torch.cat([network[first], torch.zeros((320, 5, 3, 3), dtype=network[first].dtype)], dim=1),
    }
    torch.save({"state_dict": wide}, checkpoint.with_name("inpainting.ckpt"))
    bare = {key.removeprefix(prefix): tensor.contiguous() for key, tensor in network.items()}
    save_file(bare, folders.models / "diffusion_models" / "world.safetensors")
    return SimpleNamespace(network_alone="network-alone.ckpt", inpainting="inpainting.ckpt", unet="world.safetensors")


SHAPES = {
    "SDXLRefiner": {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 384,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_middle": 4,
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "use_linear_in_transformer": True,
        "context_dim": 1280,
        "num_classes": "sequential",
        "adm_in_channels": 2560,
        "num_head_channels": 64,
        "use_spatial_transformer": True,
    },
    "SVD_img2vid": {
        "image_size": 32,
        "in_channels": 8,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "use_linear_in_transformer": True,
        "context_dim": 1024,
        "num_classes": "sequential",
        "adm_in_channels": 768,
        "num_head_channels": 64,
        "use_spatial_transformer": True,
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "extra_ff_mix_layer": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
    },
}


def without_memory(kind):
    """A MODEL of a kind that cannot be erased: the host's own class in its real shapes, on the meta device."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, kind)({**SHAPES[kind], "dtype": torch.float16})
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(
        config.get_model({}, device="meta"), load_device=device, offload_device=device
    )


class TestSchemas:
    """What the page shows of the nodes."""

    @pytest.fixture(params=NODES)
    def node(self, request, node_classes):
        """Each node."""
        return node_classes[request.param]

    def test_category_and_id(self, node_classes):
        for name, node in node_classes.items():
            assert name.startswith("ESD") and node.GET_SCHEMA().node_id == name
            assert node.GET_SCHEMA().category == "ESD" and node.GET_SCHEMA().display_name.startswith("ESD ")
            assert len(node.GET_SCHEMA().description) > 20

    def test_every_input_and_output_has_a_tooltip(self, node_classes):
        silent = [
            (name, thing.id)
            for name, node in node_classes.items()
            for thing in (*node.GET_SCHEMA().inputs, *node.GET_SCHEMA().outputs)
            if len(thing.tooltip or "") < 10
        ]
        assert silent == []

    def test_every_node_has_a_page(self, node_classes):
        short = [name for name in node_classes if not _page(name)]
        assert short == []

    def test_pages_name_every_input(self, node_classes):
        unnamed = [
            (name, thing.id)
            for name, node in node_classes.items()
            for thing in node.GET_SCHEMA().inputs
            if thing.id not in _page(name) and (thing.display_name or thing.id) not in _page(name)
        ]
        assert unnamed == []

    def test_the_nodes_of_the_issue_are_there(self, node):
        assert node.GET_SCHEMA().outputs or node.GET_SCHEMA().is_output_node

    def test_erase_says_whose_guidance_scale_it_asks_for(self, node_classes):
        (eta,) = [each for each in node_classes["ESDErase"].GET_SCHEMA().inputs if each.id == "eta"]
        assert "paper" in eta.tooltip and "negative_guidance" in eta.tooltip

    def test_defaults_of_the_nodes_are_the_defaults_of_the_method(self, node_classes):
        from esd_pack.esd.settings import Settings

        for name in ("ESDErase", "ESDEraseSettings"):
            for each in node_classes[name].GET_SCHEMA().inputs:
                if each.id != "preset" and hasattr(Settings(), each.id):
                    assert each.default == getattr(Settings(), each.id), each.id


def _page(name):
    path = ROOT / "web" / "docs" / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
