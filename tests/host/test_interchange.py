"""Files between this pack, the host's own loaders and diffusers, in the real host with the playground checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.graphs import Graph, slot
from support.host_folders import searched

NAME = "emoji-world.ckpt"
PREFIX = "diffusion_model."
NETWORK = "model.diffusion_model."
TRAINED = 20
EXACT, FULL_RANK = 1e-5, 1e-4
HALF = 5e-3
"""Relative change of the network's output that one rounding of the trained weights to fp16 may make."""

OWN_LORAS = ("user.safetensors", "text.safetensors", "out.safetensors")

SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "num_heads": 8,
    "adm_in_channels": None,
}
SD21 = {**SD15, "context_dim": 1024, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64}
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 64,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
REAL = {"SD15": (SD15, 686), "SD20": (SD21, 686), "SDXL": (SDXL, 1680)}


@pytest.fixture(scope="module")
def folders(comfy, comfy_base, node_classes):
    """The host's folders in this process; what is saved into output/checkpoints and the like can be loaded."""
    output, models = comfy_base / "output", comfy_base / "models"
    kinds = ("checkpoints", "loras", "diffusion_models", "esd")
    for kind in kinds:
        (models / kind).mkdir(exist_ok=True)
    with searched(output, kinds):
        yield SimpleNamespace(output=output, esd=models / "esd", loras=models / "loras")
    for folder in (output, models / "esd"):  # gigabytes
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
    for name in OWN_LORAS:
        (models / "loras" / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def graph(comfy, folders):
    """Makes an empty graph."""
    return lambda: Graph(comfy)


@pytest.fixture(scope="module")
def world(playground):
    """The playground's MODEL, CLIP and VAE."""
    return SimpleNamespace(**dict(zip(("model", "clip", "vae"), playground, strict=True)))


@pytest.fixture(scope="module")
def erased(graph, world):
    """A short run on the playground."""
    g = graph()
    quick = g.add(
        "ESDEraseSettings",
        width=64,
        height=64,
        num_inference_steps=4,
        samples_per_trajectory=4,
        trajectory_batch=2,
        buffer_size=8,
        closed_form=False,
    )
    run = g.add(
        "ESDErase",
        model=g.give(world.model),
        clip=g.give(world.clip),
        concepts=g.add("ESDConcept", concept="cat"),
        steps=4,
        learning_rate=1e-3,
        preview_every=0,
        settings=quick,
    )
    outcome = g.take(model=run, weights=slot(run, 1)).run()
    assert len(outcome["weights"].differences) == TRAINED
    return SimpleNamespace(model=outcome["model"], weights=outcome["weights"])


@pytest.fixture(scope="module")
def state(checkpoint):
    """The playground checkpoint's tensors."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def absolute(world, erased, dtype=torch.float32):
    """The erased network by host name without prefix."""
    from esd_pack.nodes.host.model.network_view import network_of

    network = network_of(world.model)
    changes = erased.weights.differences
    return {n: (network.weight(n).clone() + changes.get(PREFIX + n, 0)).to(dtype) for n in network.shapes}


def diffusers_name_of(world):
    from esd_pack.esd.formats.network import diffusers_names
    from esd_pack.nodes.host.model.network_view import network_of

    return diffusers_names(network_of(world.model))


def question():
    generator = torch.Generator().manual_seed(11)
    draw = [torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 77, 768))]
    return draw[0], torch.tensor([801.0, 41.0]), draw[1]


def answer(model):
    """The output of a MODEL's network, its patches applied by the host's own arithmetic."""
    from esd_pack.nodes.host.model.host_model import as_host_model
    from esd_pack.nodes.host.model.network import private_network

    x, t, context = question()
    with torch.inference_mode(False), torch.no_grad():
        return private_network(as_host_model(model), torch.device("cpu"), torch.float32)(x, t, context=context)


@pytest.fixture(scope="module")
def wanted(erased):
    """What the erased MODEL in memory answers."""
    return answer(erased.model)


def apart(a, b):
    return float((a - b).norm() / b.norm())


def save(graph, erased, form, prefix="esd/w", model=None, **inputs):
    """Save Erasure; returns the path and the node's text."""
    g = graph()
    more = {} if model is None else {"model": g.give(model)}
    g.add("ESDSaveErasure", weights=g.give(erased.weights), filename_prefix=prefix, format=form, **more, **inputs)
    outcome = g.run()
    assert outcome.ending == "execution_success", outcome.message
    (shown,) = outcome.shown.values()
    import folder_paths

    (file,) = shown["esd_files"]
    return Path(folder_paths.get_output_directory()) / file["subfolder"] / file["filename"], shown["text"][0]


class TestRealShapes:
    """The key maps and configurations at the sizes that people use, on meta tensors."""

    @pytest.mark.parametrize("kind", REAL)
    def test_every_key_of_the_network_maps_and_fits(self, comfy, kind):
        import comfy.ops
        from comfy import model_detection, supported_models
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
        from diffusers import UNet2DConditionModel

        from esd_pack.esd.formats.diffusers import config
        from esd_pack.esd.formats.network import Network, diffusers_names
        from esd_pack.nodes.host.model.network_view import diffusers_map, unet_shape

        given, count = REAL[kind]
        full = {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "use_spatial_transformer": True,
            "legacy": False,
            **given,
        }
        ours = dict(
            UNetModel(
                **{k: list(v) if isinstance(v, list) else v for k, v in full.items()},
                device="meta",
                operations=comfy.ops.disable_weight_init,
            ).named_parameters()
        )
        model = SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace(unet_config=full)))
        shapes = {name: tuple(t.shape) for name, t in ours.items()}
        names = diffusers_names(Network(kind, shapes, ours.__getitem__, diffusers_map(full, shapes)))
        with torch.device("meta"):
            made = UNet2DConditionModel.from_config(config(unet_shape(model)))
        theirs = {name: tuple(t.shape) for name, t in made.named_parameters()}
        assert len(shapes) == len(names) == len(theirs) == count
        assert {names[host]: shape for host, shape in shapes.items()} == theirs
        found = model_detection.model_config_from_diffusers_unet({names[host]: t for host, t in ours.items()})
        assert type(found) is getattr(supported_models, kind), "the stock loaders open a diffusers unet's file"


class TestSaving:
    """What we save, through the loaders of others."""

    @pytest.mark.parametrize("node", ["LoraLoader", "LoraLoaderModelOnly"])
    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_differences_in_the_stock_lora_loaders(self, graph, world, erased, folders, node, strength):
        path, _ = save(graph, erased, "difference", "loras/w")
        g = graph()
        more = {"clip": g.give(world.clip), "strength_clip": 1.0} if node == "LoraLoader" else {}
        loaded = g.add(node, model=g.give(world.model), lora_name=path.name, strength_model=strength, **more)
        applied = g.add("ESDApply", model=g.give(world.model), weights=g.give(erased.weights), strength=strength)
        outcome = g.take(loaded=loaded, applied=applied).run()
        assert torch.equal(answer(outcome["loaded"]), answer(outcome["applied"]))

    def test_lora_at_full_rank_in_the_stock_loader(self, graph, world, erased, wanted):
        path, text = save(graph, erased, "lora", "loras/full", rank=4096)
        assert "keeps 100.0% of the change's energy" in text
        loaded = self.as_lora(graph, world, path)
        assert apart(answer(loaded), wanted) <= FULL_RANK
        assert len(loaded.patches) == TRAINED

    def test_lora_by_energy_says_what_it_keeps_and_warns_below_ninety(self, graph, world, erased, wanted, caplog):
        path, text = save(graph, erased, "lora", "loras/low", rank=1)
        share = float(re.search(r"keeps ([\d.]+)% of the change's energy at ranks 1 to 1", text)[1])
        assert share < 90 and "will not erase as trained" in text and "below 90%" in caplog.text
        path, text = save(graph, erased, "lora", "loras/energy", energy=0.95)
        assert 95 <= float(re.search(r"keeps ([\d.]+)%", text)[1]) < 98
        base = answer(world.model)
        left = (answer(self.as_lora(graph, world, path)) - base) - (wanted - base)
        assert left.norm() < 0.5 * (wanted - base).norm()

    @staticmethod
    def as_lora(graph, world, path):
        g = graph()
        node = g.add("LoraLoaderModelOnly", model=g.give(world.model), lora_name=path.name, strength_model=1.0)
        return g.take(m=node).run()["m"]

    def test_the_official_loader(self, graph, world, erased, wanted, state):
        """`load_state_dict(strict=False)` on the component that the metadata names, as the official code does."""
        models = pytest.importorskip("lab.reference.models")
        path, _ = save(graph, erased, "official", model=world.model)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        assert (metadata["format"], metadata["family"], metadata["component"]) == ("erasing-esd-v2", "sd", "unet")
        assert (metadata["erase_concept"], metadata["train_method"], metadata["negative_guidance"]) == (
            "cat",
            "esd-x",
            "2.0",
        )
        unet = models.diffusers_unet_from_checkpoint(state)
        result = unet.load_state_dict(load_file(path), strict=False)
        assert not result.unexpected_keys and len(load_file(path)) == TRAINED
        assert apart(self.diffusers_answer(unet), wanted) <= EXACT

    def test_a_diffusers_unet(self, graph, world, erased, wanted):
        diffusers = pytest.importorskip("diffusers")
        folder, _ = save(graph, erased, "diffusers unet", model=world.model)
        assert {p.name for p in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
        unet, info = diffusers.UNet2DConditionModel.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert apart(self.diffusers_answer(unet), wanted) <= EXACT

    @staticmethod
    def diffusers_answer(unet):
        x, t, context = question()
        with torch.no_grad():
            return unet(x, t, encoder_hidden_states=context).sample

    @pytest.mark.parametrize("form", ["official", "diffusers unet"])
    def test_absolute_values_need_the_base(self, graph, world, erased, form):
        for model, message in (
            (None, "connect the MODEL from before erasing"),
            (erased.model, "This MODEL is erased already"),
        ):
            g = graph()
            more = {} if model is None else {"model": g.give(model)}
            g.add("ESDSaveErasure", weights=g.give(erased.weights), filename_prefix="never/w", format=form, **more)
            outcome = g.run()
            assert outcome.ending == "execution_error" and message in outcome.message

    def test_an_unknown_format(self, graph, erased):
        g = graph()
        g.add("ESDSaveErasure", weights=g.give(erased.weights), format=g.give("gguf"))  # no host checks a link's value
        assert 'There is no format "gguf": choose one of difference, lora' in g.run().message


def keep_checkpoint(graph, erased, prefix, lora=None, clip_lora=None, **inputs):
    """Load Checkpoint, Apply and Save Erased Checkpoint as one graph; returns the node's text."""
    g = graph()
    loaded = g.add("CheckpointLoaderSimple", ckpt_name=NAME)
    model, clip = loaded, slot(loaded, 1)
    if lora:
        model = g.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=0.5)
    if clip_lora:
        patched = g.add(
            "LoraLoader", model=model, clip=clip, lora_name=clip_lora, strength_model=0.0, strength_clip=1.0
        )
        clip = slot(patched, 1)
    clip = g.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)
    model = g.add("ESDApply", model=model, weights=g.give(erased.weights), strength=1.0)
    g.add(
        "ESDSaveCheckpoint",
        model=model,
        clip=clip,
        vae=slot(loaded, 2),
        filename_prefix=prefix,
        weights=g.give(erased.weights),
        **inputs,
    )
    outcome = g.take(m=model).run()
    assert outcome.ending == "execution_success", outcome.message
    text = next(shown["text"][0] for shown in outcome.shown.values() if "esd_files" in shown)
    return SimpleNamespace(text=text, model=outcome["m"])


def same_bytes(a, b):
    return a.dtype == b.dtype and torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


@pytest.fixture(scope="module")
def kept(graph, erased, folders):
    """One saved as source, in place of a diffusion model; the same file stands among the checkpoints."""
    saved = keep_checkpoint(graph, erased, "diffusion_models/kept")
    path = folders.output / "diffusion_models" / "kept_00001_.safetensors"
    (folders.output / "checkpoints" / "kept.safetensors").symlink_to(path)
    return SimpleNamespace(path=path, tensors=load_file(path), text=saved.text)


class TestCheckpoint:
    """Save Erased Checkpoint keeps what it can of the source file."""

    def test_untouched_tensors_are_the_sources_byte_for_byte(self, kept, erased, state):
        assert f"in the precision of {NAME}" in kept.text
        assert kept.tensors.keys() == state.keys()
        changed = {f"model.{name}" for name in erased.weights.differences}
        assert all(same_bytes(kept.tensors[n], state[n]) for n in state if n not in changed)

    def test_changed_tensors_are_computed_in_fp32_and_rounded_once(self, kept, erased, state):
        for name, change in erased.weights.differences.items():
            source = state[f"model.{name}"]
            assert same_bytes(kept.tensors[f"model.{name}"], (source.float() + change).to(source.dtype))

    def test_the_stock_loaders_open_it(self, graph, kept, wanted):
        g = graph()
        whole = g.add("CheckpointLoaderSimple", ckpt_name="kept.safetensors")
        alone = g.add("UNETLoader", unet_name=kept.path.name, weight_dtype="default")
        outcome = g.take(whole=whole, alone=alone).run()
        assert torch.equal(answer(outcome["whole"]), answer(outcome["alone"]))
        assert 0 < apart(answer(outcome["whole"]), wanted) <= HALF

    def test_an_fp32_source_gives_the_bits_in_memory(self, world, erased, state, tmp_path, wanted):
        """Saved as source and reloaded with the stock loader."""
        import comfy.sd

        from esd_pack.nodes.host.files.checkpoint import save_from_source

        source = tmp_path / "fp32.safetensors"
        fp32 = {n: t.float().contiguous() for n, t in state.items() if n.startswith(NETWORK)}
        save_file(fp32, source, {"modelspec.title": "World", "prompt": "of the source"})
        found = save_from_source(tmp_path / "out.safetensors", source, erased.model, world.clip, {"esd.eta": "1"})
        assert found is None
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            assert file.metadata() == {"modelspec.title": "World", "esd.eta": "1"}
        assert torch.equal(answer(comfy.sd.load_diffusion_model(str(tmp_path / "out.safetensors"))), wanted)

    def test_other_patches_are_baked_in_too_and_metadata_follows_the_hosts_switch(
        self, graph, erased, folders, state, kept, monkeypatch
    ):
        from comfy.cli_args import args

        name = "input_blocks.0.0"
        change = torch.full(state[f"{NETWORK}{name}.weight"].shape, 0.01)
        save_file({f"{PREFIX}{name}.diff": change}, folders.loras / "user.safetensors")
        monkeypatch.setattr(args, "disable_metadata", True)
        saved = keep_checkpoint(graph, erased, "checkpoints/bare", lora="user.safetensors")
        assert "in the precision of" in saved.text
        source = state[f"{NETWORK}{name}.weight"]
        with safe_open(folders.output / "checkpoints" / "bare_00001_.safetensors", "pt") as file:
            found = file.get_tensor(f"{NETWORK}{name}.weight")
            assert file.metadata().keys() - {"modelspec.resolution"} == erased.weights.metadata.keys()
        assert torch.equal(found, (source.float() + 0.5 * change).to(source.dtype))
        with safe_open(kept.path, "pt") as file:
            assert {"prompt", "esd.concepts", "esd.eta"} <= file.metadata().keys()

    def test_the_hosts_writer_takes_over_and_says_why(self, graph, world, erased, folders, tmp_path, state):
        from esd_pack.nodes.host.files.checkpoint import save_from_source

        key = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
        save_file({f"{key}.diff": torch.full((3072, 768), 0.01)}, folders.loras / "text.safetensors")
        saved = keep_checkpoint(graph, erased, "checkpoints/text", clip_lora="text.safetensors")
        assert saved.text == "Saved text_00001_.safetensors as loaded, because the CLIP has been changed"
        moved = {**state, f"{NETWORK}out.2.bias": state[f"{NETWORK}out.2.bias"] + 1}
        reasons = {
            "MODEL, CLIP and VAE do not come from one checkpoint file": None,
            "diffusion_model.out.2.bias is not as in the file": moved,
            "the file has no model.diffusion_model.": {"x": torch.ones(1)},
        }
        for number, (reason, tensors) in enumerate(reasons.items()):
            source = None if tensors is None else tmp_path / f"{number}.ckpt"
            if source:
                torch.save(tensors, source)
            found = save_from_source(tmp_path / "never.safetensors", source, erased.model, world.clip, {})
            assert reason in found and not (tmp_path / "never.safetensors").exists()

    def test_one_file_behind_all_three_is_found_in_the_graph(self, checkpoint, folders):
        from esd_pack.nodes.host.files.graph import whole_checkpoint

        def graph_with(vae):
            return {
                "1": {"inputs": {"ckpt_name": NAME}},
                "2": {"inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": "x"}},
                "3": {"inputs": {"clip": ["2", 1], "stop_at_clip_layer": -2}},
                "4": {"inputs": {"vae_name": "other.safetensors"}},
                "5": {"inputs": {"model": ["2", 0], "clip": ["3", 0], "vae": vae}},
            }

        assert whole_checkpoint(graph_with(["1", 2]), "5") == checkpoint
        assert whole_checkpoint(graph_with(["4", 0]), "5") is None
        assert whole_checkpoint({}, "5") is None

    def test_an_unknown_precision(self, graph, world, erased):
        g = graph()
        parts = {"model": g.give(erased.model), "clip": g.give(world.clip), "vae": g.give(world.vae)}
        g.add("ESDSaveCheckpoint", **parts, precision=g.give("int4"))
        assert 'precision is "int4": choose as source or as loaded' in g.run().message


LAYOUTS = {
    "full UNet, pickle": lambda names, values: torch_form({names[n]: t for n, t in values.items()}),
    "nested, pickle": lambda names, values: torch_form(
        nested({f"unet.{names[n]}": t for n, t in values.items() if "attn2.to" in n})
    ),
    "CompVis, pickle": lambda names, values: torch_form(
        {NETWORK + n: t for n, t in values.items()} | {"betas": torch.ones(4)}
    ),
    "CompVis, wrapped": lambda names, values: torch_form({"state_dict": {NETWORK + n: t for n, t in values.items()}}),
    "official, bf16": lambda names, values: (
        ".safetensors",
        lambda path: save_file({names[n]: t.bfloat16() for n, t in values.items() if "attn2.to" in n}, path),
    ),
}


def torch_form(tree):
    return ".pt", lambda path: torch.save(tree, path)


def nested(flat):
    tree = {}
    for name, tensor in flat.items():
        module, _, leaf = name.rpartition(".")
        tree.setdefault(module, {})[leaf] = tensor
    return tree


class TestLoading:
    """Load Erasure on the published layouts, made from an erased playground."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_published_layouts_give_the_weights_they_came_from(self, graph, world, erased, wanted, folders, layout):
        values = absolute(world, erased)
        ending, write = LAYOUTS[layout](diffusers_name_of(world), values)
        write(folders.esd / f"published{ending}")
        outcome = self.load(graph, world, f"published{ending}")
        found = outcome["weights"].differences
        assert found.keys() == erased.weights.differences.keys()
        tolerance = 1e-2 if "bf16" in layout else 1e-6
        assert all(torch.allclose(found[n], t, rtol=0, atol=tolerance) for n, t in erased.weights.differences.items())
        if "bf16" not in layout:
            assert apart(answer(outcome["model"]), wanted) <= EXACT
        (shown,) = outcome.shown.values()
        assert len(shown["text"]) == 1, "no warning on its own base"

    @staticmethod
    def load(graph, world, name, linked=False, **inputs):
        g = graph()
        file = g.give(name) if linked else name
        node = g.add("ESDLoadErasure", file=file, model=g.give(world.model), **inputs)
        return g.take(model=node, weights=slot(node, 1)).run()

    @pytest.mark.parametrize("form", ["difference", "lora", "official"])
    def test_everything_we_save_alone_we_load(self, graph, world, erased, wanted, form):
        path, _ = save(graph, erased, form, f"esd/own-{form}", model=world.model, rank=4096)
        outcome = self.load(graph, world, path.name)
        assert apart(answer(outcome["model"]), wanted) <= FULL_RANK
        if form == "difference":
            assert torch.equal(answer(outcome["model"]), wanted)
        assert json.loads(outcome["weights"].metadata["esd.concepts"])[0]["erase"] == "cat"

    def test_leco_names(self, graph, world, folders):
        name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
        up, down = torch.randn(320, 4), torch.randn(4, 768)
        tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        save_file(tensors, folders.esd / "leco.safetensors")
        found = self.load(graph, world, "leco.safetensors")["weights"].differences
        (key,) = found
        assert key == "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        assert torch.allclose(found[key], up @ down / 4, atol=1e-5)

    def test_the_incoming_model_keeps_its_loras(self, graph, world, erased, folders):
        save_file({f"{PREFIX}out.2.diff": torch.full((4, 320, 3, 3), 0.01)}, folders.loras / "out.safetensors")
        path, _ = save(graph, erased, "difference", "esd/beside")
        g = graph()
        base = g.add("LoraLoaderModelOnly", model=g.give(world.model), lora_name="out.safetensors", strength_model=1.0)
        node = g.add("ESDLoadErasure", file=path.name, model=base)
        model = g.take(m=node).run()["m"]
        assert len(model.patches) == TRAINED + 1

    def test_another_base_warns_on_the_node_and_in_the_log(self, graph, world, erased, folders, caplog):
        names = diffusers_name_of(world)
        values = {names[n]: t * 1.001 for n, t in absolute(world, erased).items()}
        torch.save(values, folders.esd / "foreign.pt")
        outcome = self.load(graph, world, "foreign.pt")
        (shown,) = outcome.shown.values()
        assert "none of its 206 tensors equals this MODEL's; the median difference is 0.1%" in shown["text"][1]
        assert "none of its 206 tensors" in caplog.text
        refused = self.load(graph, world, "foreign.pt", interpret="as difference")
        assert "connect the model it was trained from to base_model" in refused.message

    def test_the_hash_in_our_official_file_is_held_against_the_graph(self, graph, world, erased, checkpoint, folders):
        path, _ = save(graph, erased, "official", "esd/hashed", model=world.model)
        tensors = load_file(path)
        for digest, warned in (("0" * 64, True), (self.sha256(checkpoint), False)):
            save_file(tensors, folders.esd / "hashed.safetensors", {"esd.base_file": NAME, "esd.base_sha256": digest})
            g = graph()
            g.add("ESDLoadErasure", file="hashed.safetensors", model=g.add("CheckpointLoaderSimple", ckpt_name=NAME))
            outcome = g.take(m=["2", 0]).run()
            assert any("with another hash" in line for line in next(iter(outcome.shown.values()))["text"]) == warned

    @staticmethod
    def sha256(path):
        import hashlib

        return hashlib.sha256(path.read_bytes()).hexdigest()

    @pytest.mark.parametrize(
        "name", ["../checkpoints/emoji-world.ckpt", "/etc/passwd", "none.safetensors", "", "..", "notes.txt"]
    )
    def test_names_that_lead_elsewhere(self, graph, world, name):
        """By a link, too; newer hosts refuse a typed name before anything runs."""
        typed = self.load(graph, world, name)
        assert typed.ending in ("execution_error", "refused")
        linked = self.load(graph, world, name, linked=True)
        assert linked.ending == "execution_error"
        assert f'There is no weights file "{name}": put it into models/esd' in linked.message

    def test_a_refused_file_changes_nothing(self, graph, world, folders):
        before = answer(world.model)
        tensors = {"conv_in.weight": torch.zeros(320, 4, 3, 3), "conv_out.weight": torch.zeros(4, 320, 5, 5)}
        save_file(tensors, folders.esd / "half-wrong.safetensors")
        outcome = self.load(graph, world, "half-wrong.safetensors")
        assert outcome.ending == "execution_error" and "(4, 320, 5, 5) in it" in outcome.message
        assert torch.equal(before, answer(world.model)) and not world.model.patches

    def test_the_node_runs_again_when_the_file_changes(self, graph, node_classes, erased, folders):
        path, _ = save(graph, erased, "difference", "esd/touched")
        node = node_classes["ESDLoadErasure"]
        before = node.fingerprint_inputs(file=path.name, interpret="auto")
        path.write_bytes(path.read_bytes() + b" ")
        assert node.fingerprint_inputs(file=path.name, interpret="auto") != before


def test_info_in_words_and_as_a_picture(graph, erased):
    g = graph()
    node = g.add("ESDErasureInfo", weights=g.give(erased.weights))
    outcome = g.take(text=node, picture=slot(node, 1)).run()
    for line in ('concept: "cat"', "method: esd-x", "eta: 1.0", "steps: 4", "seed: 0", f"changes {TRAINED} tensors"):
        assert line in outcome["text"]
    picture = outcome["picture"]
    assert picture.shape[0] == 1 and picture.shape[3] == 3 and 0 <= picture.min() < picture.max() <= 1
    assert outcome.shown["2"]["text"] == [outcome["text"]]
