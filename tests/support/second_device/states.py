"""States of a host in which Erase must give the CPU's bits: `python states.py ARM HOST OUT.json` runs them all.

ARM is `cpu`, `device` (the host takes the second device for its GPU) or `dynamic` (its DynamicVRAM runs on it).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parents[1])]

import second_device  # noqa: E402
import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from commands import inprocess  # noqa: E402
from lab.launch import base  # noqa: E402
from support.graphs import CachedTextEncoder, Graph, slot  # noqa: E402

QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "samples_per_trajectory": 2,
    "trajectory_batch": 2,
    "buffer_size": 4,
    "steps": 2,
    "stop": "after all steps",
    "contexts": "own words",
    "closed_form": False,
}
KEPT = {"preview_every": 0, "snapshot_every": 0, "start": "start over"}
RESIDENCY = {
    "resident": (None, False),
    "half": (20 * 2**20, False),
    "streamed": (0, False),
    "fleeting": (None, True),
}
"""How many bytes of weights DynamicVRAM keeps on the device, and whether it takes them back at the next layer."""


def digest(*things: Any) -> str:
    """A hash of tensors and mappings of them; raises where one is not on the CPU."""
    found = hashlib.sha256()
    for thing in things:
        for name, tensor in sorted(thing.items()) if isinstance(thing, dict) else [("", thing)]:
            if tensor.device.type != "cpu":
                raise AssertionError(f"{name} is on {tensor.device}")
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class World:
    """A host with the pack and the playground, on the CPU or on the second device."""

    def __init__(self, arm: str, host: Path, folder: Path) -> None:
        """Start the host in this process; call it once."""
        sys.path.insert(0, str(host))
        os.chdir(host)
        from comfy.cli_args import args

        args.cpu = args.use_pytorch_cross_attention = True
        import comfy.model_management

        self.management, self.gpu, self.driver = comfy.model_management, None, None
        if arm != "cpu":
            self.gpu = second_device.attach(comfy.model_management)
            self.gpu.fp16 = self.gpu.bf16 = False
        if arm == "dynamic":
            import fake_aimdo

            self.driver = fake_aimdo.enable(comfy.model_management, self.gpu)
        inprocess.start(host, base.prepare_base(folder / arm, host))
        import server

        import nodes

        server.PromptServer(asyncio.new_event_loop())
        assert asyncio.run(nodes.load_custom_node(str(ROOT)))
        self.nodes, self.output, self.plan, self.need, self.begun = nodes, folder / arm / "output", None, None, 0
        self.load()

    def load(self) -> None:
        """The playground anew."""
        with torch.inference_mode():
            loader = self.nodes.CheckpointLoaderSimple()
            self.model, self.real_clip, self.vae = loader.load_checkpoint(base.CHECKPOINT)
            self.clip = CachedTextEncoder(self.real_clip)
        self.as_loaded = self.bits()
        self.left_by_the_host = self._left_by_the_host()

    def module(self, name: str) -> Any:
        """A module of the pack as the host loaded it, such as `nodes.host.erase`."""
        (found,) = [m for key, m in sys.modules.items() if key.endswith(f".{name}") and str(ROOT) in key]
        return found

    def erase(self, model: Any = None, clip: Any = None, monitor: Any = None, **changes: Any) -> Any:
        """A run of two steps: concepts and keeps in words, settings by name."""
        concepts = self.module("esd.concepts")
        chosen = changes.pop("concepts", [concepts.make_concept("cat")])
        keeps = [concepts.make_keep(text, 1.0) for text in changes.pop("keeps", [])]
        settings = self.module("esd.settings").Settings(**{**QUICK, **changes})
        erase = self.module("nodes.host.run.erase")
        with self.set(erase, "fitted", self._noting(erase.fitted)):
            return erase.erase_model(model or self.model, clip or self.clip, chosen, keeps, settings, monitor=monitor)

    def _noting(self, fitted: Callable[..., Any]) -> Callable[..., Any]:
        """Keep what memory was foretold, and what was on the device when the run began."""

        def note(*args: Any) -> Any:
            plan = fitted(*args)
            self.plan, self.need, self.begun = plan, plan.need, second_device.allocated()
            second_device.peak(reset=True)
            return plan

        return note

    def monitor(self, **changes: Any) -> Any:
        """How the run is watched."""
        return self.module("nodes.host.run.monitor").MonitorOptions(**{**KEPT, "node": "1", **changes})

    def concept(self, *words: str) -> Any:
        """A concept from its words."""
        return self.module("esd.concepts").make_concept(*words)

    def drawn(self, model: Any = None) -> torch.Tensor:
        """A latent that the stock KSampler draws."""
        conditions = [self.clip.encode_from_tokens_scheduled(prompt) for prompt in ("cat", "")]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        sampler = self.nodes.KSampler()
        (found,) = sampler.sample(model or self.model, 5, 2, 3.0, "euler", "normal", *conditions, latent)
        return found["samples"].clone()

    def _left_by_the_host(self) -> int:
        """Bytes on the device when the host has used all three by itself and has nothing loaded any more."""
        if self.gpu is None:
            return 0
        with torch.inference_mode():
            self.vae.decode(self.drawn())
        self.clear()
        return second_device.allocated()

    def bits(self) -> str:
        """A hash of the host's own weights."""
        with torch.inference_mode():
            return digest({name: t.detach().cpu() for name, t in self.model.model_state_dict().items()})

    def eager_layers(self) -> AbstractContextManager[None]:
        """Networks that have weights as soon as they are made, under DynamicVRAM too."""
        if self.driver is None:
            return nullcontext()
        import comfy.memory_management

        return self.set(comfy.memory_management, "aimdo_enabled", False)

    def clear(self) -> None:
        """What the host does at the end of a node and of a prompt, and nothing loaded, on neither device."""
        self.module("nodes.host.model.loaded").end_streaming()
        self.management.unload_all_models()
        self.management.free_memory(1e30, torch.device("cpu"))
        gc.collect()

    @contextmanager
    def set(self, thing: Any, name: str, value: Any) -> Iterator[None]:
        """Set an attribute for a while."""
        before = getattr(thing, name)
        setattr(thing, name, value)
        try:
            yield
        finally:
            setattr(thing, name, before)


State = Callable[[World], Any]
STATES: dict[str, State] = {}


def state(words: str) -> Callable[[State], State]:
    """Register a state: what it returns is hashed, and must be the same on the CPU and on the device."""

    def register(function: State) -> State:
        STATES[words] = function
        return function

    return register


def simple(words: str, **changes: Any) -> None:
    """A state that differs from the plain run by settings alone."""
    STATES[words] = lambda world: world.erase(**changes).weights.differences


simple("esd-x, nothing loaded before")
simple("esd-x-strict", method="esd-x-strict")
simple("esd-u", method="esd-u", steps=1)
simple("keeps", keeps=["dog\nhouse"])
simple("gradient checkpointing on", gradient_checkpointing="on")
simple("batch 2, accumulate 2", batch_size=2, gradient_accumulation_steps=2)
simple("the student as sampler", sampler_model="student", buffer_size=1, samples_per_trajectory=1, steps=3)
simple("optimiser adafactor", optimizer="adafactor")
simple("a start in closed form", closed_form=True)
FINDING = {"steps": 12, "stop": "when gone", "learning_rate": 0.0}
simple("a learning rate found by the run, keeps measured", keeps=["dog"], **FINDING)
simple("precision bf16", precision="bf16")
simple("precision fp16", precision="fp16", steps=1)


LARGE = {"width": 256, "height": 256, "trajectory_batch": 1, "buffer_size": 2}
simple("256 pixels", **LARGE)
simple("256 pixels, gradient checkpointing on, batch 2", **{**LARGE, "gradient_checkpointing": "on", "batch_size": 2})
simple("256 pixels, esd-u, adafactor", **{**LARGE, "method": "esd-u", "optimizer": "adafactor"})


def family(words: str, row: str, *, speaks_words: bool = False, **changes: Any) -> None:
    """A small network of a family's real layout with random weights."""

    def run(world: World) -> Any:
        import comfy.sd

        from support.family_models import ROWS
        from support.word_text import WordText

        with torch.inference_mode(False), world.eager_layers():
            state = {name: t.clone() for name, t in ROWS[row].state().items()}
        model = comfy.sd.load_diffusion_model_state_dict(state)
        text = ROWS[row].text
        text = WordText(text.width, text.pooled) if speaks_words else text
        return dict(world.erase(model, text, width=128, height=128, steps=2, **changes).weights.differences)

    STATES[words] = run


family("SD2.x", "sd2")
family("SDXL", "koala")
family("SD3", "sd3")
family("SD2.x, a start in closed form", "sd2", closed_form=True)
family("SDXL, a start in closed form", "koala", closed_form=True)
family("SD3, a start in closed form", "sd3", speaks_words=True, closed_form=True)


def streamed(words: str, name: str, **changes: Any) -> None:
    """A network whose blocks visit the device, since there is no room for all of them; on the CPU it has room."""

    def run(world: World) -> Any:
        from support.deep_models import DEEP

        with torch.inference_mode(False), world.eager_layers():
            model, text = DEEP[name](), DEEP[name].text
            usual = {
                "width": 64,
                "height": 64,
                "steps": 3,
                "trajectory_batch": 1,
                "gradient_checkpointing": "on",
                **changes,
            }
            whole = world.erase(model, text, **usual).weights
            found = {key: whole.change(key) for key in whole.names}
            if world.gpu is None:
                return found
            assert not world.plan.offload.streamed
            room = world.need.wanted - int(SHARE * world.need.copies)
            with world.set(world.gpu, "total", world.begun + room):
                again = world.erase(model, text, **usual).weights
        visitors = world.plan.offload
        assert 3 <= len(visitors.streamed) < visitors.blocks, visitors
        assert digest(found) == digest({key: again.change(key) for key in again.names}), "other bits"
        return found

    STATES[words] = run


SHARE = 0.3
"""Of the network's bytes that there is no room for."""

streamed("blocks streamed: Wan, rank 4", "wan", rank=4)
streamed("blocks streamed: Wan", "wan")
streamed("blocks streamed: FLUX.1, rank 4", "dev", rank=4)
streamed("blocks streamed: FLUX.1, a start in closed form, rank 4", "dev", rank=4, closed_form=True)
streamed("blocks streamed: Z-Image, rank 4, keeps", "zimage", rank=4, keeps=["dog"])
streamed("blocks streamed: Wan in fp8, rank 4", "wan fp8", rank=4)
streamed("blocks streamed: SDXL, a start in closed form, rank 4", "koala", rank=4, closed_form=True)

FORETOLD = (
    *("256 pixels", "256 pixels, gradient checkpointing on, batch 2", "256 pixels, esd-u, adafactor"),
    *("SD2.x", "SDXL", "blocks streamed: FLUX.1, rank 4"),
)
"""Where the peak on the device is held against what was foretold."""


@state("erase from")
def _(world: World) -> Any:
    return world.erase(concepts=[world.concept("cat", "cat in a hat")]).weights.differences


@state("a style's start in closed form, looked at")
def _(world: World) -> Any:
    changes = {"closed_form": True, "stop": "when gone", "contexts": "by kind", "steps": 1}
    return world.erase(concepts=[world.concept("ink style")], **changes).weights.differences


def low_rank(words: str, **changes: Any) -> None:
    """A state of a low-rank student that differs from the plain run by settings alone."""

    def run(world: World) -> Any:
        learnt = world.erase(rank=4, **changes).weights
        return {name: learnt.change(name) for name in learnt.names}

    STATES[words] = run


low_rank("a start in closed form, rank 4", closed_form=True)
low_rank("a learning rate found by the run, rank 4", **FINDING)


@state("several concepts")
def _(world: World) -> Any:
    concepts = [world.concept(word) for word in ("cat", "dog", "sepia style")]
    return world.erase(concepts=concepts, batch_size=2, gradient_accumulation_steps=2).weights.differences


@state("a KSampler before, on the same MODEL")
def _(world: World) -> Any:
    before, erased = world.drawn(), world.erase()
    if world.gpu is not None and world.driver is None:  # its loaded weights are shared, so it is not sent away
        loaded = [each.model for each in world.management.current_loaded_models]
        assert any(model is not None and world.model.is_clone(model) for model in loaded) and not world.need.copies
    return before, erased.weights.differences, world.drawn()


@state("another MODEL on the device, with room for both and without")
def _(world: World) -> Any:
    with torch.inference_mode():
        other = world.nodes.CheckpointLoaderSimple().load_checkpoint(base.CHECKPOINT)[0]
    found = []
    for room in (2**40, None):
        drawn = world.drawn(other)
        if world.gpu is not None and room is None:
            world.gpu.total = second_device.allocated() + (256 if world.driver else 64) * 2**20
        found += [drawn, world.erase().weights.differences]
        if world.gpu is not None:
            world.gpu.total = 24 * 2**30
            loaded = [each.model for each in world.management.current_loaded_models]
            kept = sum(m.loaded_size() for m in loaded if m is not None and other.is_clone(m))
            assert world.driver or (kept > 100 * 2**20) is (room is not None), kept
    return tuple(found)


@state("a LoRA on the MODEL")
def _(world: World) -> Any:
    patched = world.model.clone()
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    change = torch.randn(patched.model_state_dict()[name].shape, generator=torch.Generator().manual_seed(1)) * 0.02
    patched.add_patches({name: ("diff", (change,))}, 0.7)
    before = world.drawn(patched)
    erased = world.erase(patched)
    return before, erased.weights.differences, world.drawn(erased.model), world.drawn()


@state("an erased MODEL erased again")
def _(world: World) -> Any:
    first = world.erase()
    second = world.erase(first.model, concepts=[world.concept("dog")])
    return second.weights.differences, world.drawn(second.model)


@state("a second run, equal to the first")
def _(world: World) -> Any:
    found = [digest(dict(world.erase().weights.differences)) for _ in range(2)]
    assert found[0] == found[1]
    return torch.tensor([int(found[0][:8], 16)])


@state("the MODEL half on the device (lowvram patches)")
def _(world: World) -> Any:
    if world.gpu is not None:
        world.gpu.only(60 * 2**20)
        world.drawn()
        world.gpu.total = 24 * 2**30
    return world.erase().weights.differences


def in_precision(words: str, flag: str, **changes: Any) -> None:
    """A host that loads and computes in a half precision; the CPU is told to compute in it, too."""

    def run(world: World) -> Any:
        from comfy.cli_args import args

        with ExitStack() as stack:
            stack.enter_context(world.set(args, flag, True))
            if world.gpu is None:
                stack.enter_context(world.set(world.management, "unet_manual_cast", lambda *_, **__: None))
            else:
                for name in ("fp16", "bf16"):
                    stack.enter_context(world.set(world.gpu, name, True))
            with torch.inference_mode():
                model = world.nodes.CheckpointLoaderSimple().load_checkpoint(base.CHECKPOINT)[0]
            return world.drawn(model), world.erase(model, **changes).weights.differences

    STATES[words] = run


in_precision("a host in fp16, a KSampler before", "fp16_unet")
in_precision("a host in bf16, a KSampler before", "bf16_unet")
in_precision(
    "a host in fp16, keeps, gradient checkpointing on", "fp16_unet", keeps=["dog"], gradient_checkpointing="on"
)


def in_state(words: str, name: str) -> None:
    """A state of the host's memory manager."""

    def run(world: World) -> Any:
        if world.gpu is None:
            return world.drawn(), world.erase().weights.differences
        try:
            world.gpu.state(name)
            return world.drawn(), world.erase().weights.differences
        finally:
            world.gpu.state("NORMAL_VRAM")

    STATES[words] = run


in_state("--lowvram, a KSampler before", "LOW_VRAM")
in_state("--novram, a KSampler before", "NO_VRAM")
in_state("--highvram, a KSampler before", "HIGH_VRAM")


@state("the text encoder's own answers, on its device")
def _(world: World) -> Any:
    return world.erase(clip=world.real_clip).weights.differences


@state("the text encoder on the other device")
def _(world: World) -> Any:
    patcher = world.real_clip.patcher
    other = torch.device("cpu") if patcher.load_device.type != "cpu" or world.gpu is None else world.gpu.device
    with world.set(patcher, "load_device", other):
        found = world.erase(clip=world.real_clip).weights.differences
        world.clear()
    return found


def previewed(world: World) -> Any:
    """The differences, and the last previews' pictures; when one is shown the VAE is off the device again."""
    seen: list[Any] = []
    live = world.module("nodes.host.run.status")
    show = live.RunRegistry.show

    def watched(self: Any, run: Any, pictures: Any) -> None:
        seen.append(pictures)
        loaded = [each.model for each in world.management.current_loaded_models]
        stayed.append(world.vae.device.type != "cpu" and any(each is world.vae.patcher for each in loaded))
        show(self, run, pictures)

    stayed: list[bool] = []
    with world.set(live.RunRegistry, "show", watched):
        erased = world.erase(monitor=world.monitor(preview_every=1, vae=world.vae), keeps=["dog"])
    jpegs = [picture["jpeg"] for picture in seen[-1]]
    assert not any(stayed), "the VAE stayed on the device"
    assert len(jpegs) == 2 and "preview failed" not in live.registry().runs[-1].message
    return erased.weights.differences, torch.tensor([hash_of(each) for each in jpegs])


def hash_of(text: str) -> int:
    """Of a text, the same in every process."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


STATES["previews, the VAE on its device"] = previewed


@state("previews, the VAE on the CPU")
def _(world: World) -> Any:
    from comfy.cli_args import args

    with world.set(args, "cpu_vae", True), torch.inference_mode():
        vae = world.nodes.CheckpointLoaderSimple().load_checkpoint(base.CHECKPOINT)[2]
    assert vae.device.type == "cpu"
    with world.set(world, "vae", vae):
        found = previewed(world)
        world.clear()
    return found


@state("a preview for which the host makes room, the trained MODEL loaded before")
def _(world: World) -> Any:
    def tight(self: Any, *args: Any) -> Any:
        if world.gpu is None:
            return decode(self, *args)
        room = 64 if world.driver else 1
        with world.set(world.gpu, "total", second_device.allocated() + room * 2**20):
            return decode(self, *args)

    before, decode = world.drawn(), type(world.vae).decode
    with world.set(type(world.vae), "decode", tight):
        return before, *previewed(world), world.drawn()


class Stop(Exception):
    """Ends a run in the middle."""


@state("a snapshot, and the run gone on with")
def _(world: World) -> Any:
    train = world.module("esd.train")
    step, made = train.accumulate_gradients, []

    def failing(*args: Any) -> Any:
        made.append(1)
        if len(made) == 2:
            raise Stop
        return step(*args)

    shutil.rmtree(world.output / "esd" / "runs", ignore_errors=True)  # or an earlier residency's result would do
    with suppress(Stop), world.set(train, "accumulate_gradients", failing):
        world.erase(monitor=world.monitor(start="resume"))
    (snapshot,) = (world.output / "esd" / "runs").glob("*/snapshot.esd")
    tensors = torch.tensor(list(snapshot.read_bytes()[-4096:]))
    return tensors, world.erase(monitor=world.monitor(start="resume")).weights.differences


@state("cancelled, and run again")
def _(world: World) -> Any:
    progress = world.module("nodes.host.progress").Progress
    advance = progress.advance

    def cancelling(self: Any, samples: int) -> None:
        if self.calls == 4:
            world.management.interrupt_current_processing()
        advance(self, samples)

    try:
        with world.set(progress, "advance", cancelling):
            world.erase(monitor=world.monitor())
    except world.management.InterruptProcessingException:
        return world.erase().weights.differences
    raise AssertionError("the run was not cancelled")


@state("saved as difference, official and as a checkpoint, which take no memory of the device")
def _(world: World) -> Any:
    erased = world.erase()
    saving, exports = world.module("nodes.host.files.save"), world.module("nodes.host.files.export")
    source = world.output.parent / "models" / "checkpoints" / base.CHECKPOINT
    parts = saving.Parts(erased.model, world.real_clip, world.vae, source)
    with second_device.limited(second_device.allocated()):
        paths = [
            saving.save_erasure(f"out/{form}", exports.Export(erased.weights, {}, world.model, 2), {}, form)[0]
            for form in ("difference", "official")
        ]
        paths.append(saving.save_checkpoint("out/whole", parts, erased.weights, {}, "as source")[0])
    found = [int(hashlib.sha256(path.read_bytes()).hexdigest()[:8], 16) for path in paths]
    for path in paths:
        path.unlink()
    return torch.tensor(found)


@state("a published file, loaded and drawn")
def _(world: World) -> Any:
    path = world.output.parent / "models" / "esd" / base.PUBLISHED
    found = world.module("nodes.host.files.published").load(path, world.model, "auto")
    applied = world.module("nodes.host.model.apply").apply(world.model, found.weights, 1.0)
    return dict(found.weights.differences), world.drawn(applied), world.drawn()


@state("before and after")
def _(world: World) -> Any:
    sampling = world.module("nodes.host.images.sampling")
    rows = {"before": world.model, "after": world.erase().model}
    choice = sampling.SamplerChoice(3, 2, 3.0, "euler", "normal", 64, 64)
    return dict(sampling.draw_rows(rows, world.clip, world.vae, sampling.samples_of(["cat", "dog"], 3), choice))


@state("Measure, and Evaluate with the base as judge")
def _(world: World) -> Any:
    erased, base_model = world.erase().model, world.model
    measure, evaluate = world.module("nodes.host.model.measure"), world.module("nodes.host.images.evaluate")
    choice = measure.MeasureChoice(1, 8, 0, 64, 64)
    keep = world.module("esd.concepts").make_keep("dog", 1.0)
    found = measure.measure_models(erased, base_model, world.clip, [world.concept("cat")], [keep], choice)
    figures = [each.residuals + each.drifts for each in (*found.concepts, *found.keeps)]
    sets, how = world.module("esd.evaluate.prompt_set"), world.module("nodes.host.images.sampling").SamplerChoice
    prompts = sets.prompt_set("", sets.rows_of_lines("cat\ndog", "erased"))
    shots_of = world.module("nodes.host.images.shots").shots_of
    shots = shots_of(prompts, 1, how(3, 2, 3.0, "euler", "normal", 64, 64))
    judge = world.module("nodes.host.images.judges").BaseModelJudge(base_model, world.clip, world.vae)
    drawn = evaluate.evaluate(base_model, erased, world.clip, world.vae, shots, prompts.labels, judge)
    scores = [score.score for model in drawn.scores.values() for score in model]
    return torch.tensor(figures), torch.tensor(scores)


@state("measured as commands/gpu.py does")
def _(world: World) -> Any:
    from commands import gpu, shapes
    from support.deep_models import TINY_SHAPE

    with patch.dict(shapes.SHAPES, {"tiny": TINY_SHAPE}):
        rows = list(gpu.rows(gpu.parser().parse_args(["--steps", "2", "--shapes", "tiny"])))
    assert world.gpu is None or all(row["peak_bytes"] > 2**20 for row in rows), rows
    return torch.tensor([[row["rank"], row["passes_per_step"], row["published_passes"]] for row in rows])


@state("Safe Latent Diffusion")
def _(world: World) -> Any:
    guided = world.module("nodes.host.model.safety_guidance").with_safety_guidance
    return world.drawn(guided(world.model, world.clip, "cat", "max"))


@state("Unified Concept Editing, and the name that its pictures are kept under")
def _(world: World) -> Any:
    edit = world.module("nodes.host.model.unified_concept_editing").unified_concept_editing
    weights = edit(world.model, world.clip, [world.concept("cat")], [], 0.5)
    model = world.module("nodes.host.model.apply").apply(world.model, weights, 1.0)
    known = world.module("nodes.host.model.fingerprint").digest_of_model(model)
    return world.drawn(model), torch.tensor(list(bytes.fromhex(known)))


@state("Load Model, KSampler, Erase and KSampler in one prompt")
def _(world: World) -> Any:
    g = Graph(world.nodes)
    loaded = g.add("ESDLoadModel", ckpt_name=base.CHECKPOINT)
    words = {name: g.add("CLIPTextEncode", clip=slot(loaded, 1), text=text) for name, text in PROMPTS.items()}
    latent = g.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    how = {"seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "latent_image": latent}
    before = g.add("KSampler", model=loaded, **words, **how)
    few = {name: value for name, value in QUICK.items() if name != "steps"}
    more = {"concepts": g.add("ESDConcept", concept="cat"), "settings": g.add("ESDEraseSettings", **few)}
    erase = g.add("ESDErase", model=loaded, clip=slot(loaded, 1), steps=2, **more, **KEPT)
    after = g.add("KSampler", model=erase, **words, **how)
    done = g.take(before=before, weights=slot(erase, 1), after=after).run()
    return done["before"]["samples"].clone(), dict(done["weights"].differences), done["after"]["samples"].clone()


ALLOWED_TO_DIFFER: tuple[str, ...] = ()
"""States whose bits depend on what is resident, by the host's own doing."""

PROMPTS = {"positive": "cat", "negative": ""}


@contextmanager
def no_room_in(world: World, thing: Any, name: str) -> Iterator[None]:
    """The device has no byte more than is taken while a function runs."""
    original = getattr(thing, name)

    def short(*args: Any, **kwargs: Any) -> Any:
        if any(getattr(each, "is_meta", False) for each in args):
            return original(*args, **kwargs)
        gc.collect()
        with second_device.limited(second_device.allocated()):
            return original(*args, **kwargs)

    with world.set(thing, name, short):
        yield


def shortage(words: str, place: Callable[[World], tuple[Any, str]], **changes: Any) -> None:
    """A state in which the device's memory ends in a call of the run, and the next run is fine."""

    def run(world: World) -> Any:
        if world.gpu is not None:
            fails_for_want_of_room(world, *place(world), **changes)
        return world.erase(**changes).weights.differences

    STATES[words] = run


def fails_for_want_of_room(world: World, thing: Any, name: str, **changes: Any) -> None:
    """Hold that a run without room in a call says so, and leaves nothing on the device."""
    with no_room_in(world, thing, name):
        words = refused(world, **changes)
    assert "Memory ran out" in words, words
    world.clear()
    left = second_device.allocated() - world.left_by_the_host
    assert left == 0, f"{left} bytes are left"


def refused(world: World, **changes: Any) -> str:
    """How a run fails that must; the error, which holds all that the run held, goes."""
    try:
        world.erase(monitor=world.monitor(), **changes)
    except world.module("esd.errors").EsdError as found:
        return str(found)
    return "it did not fail"


shortage(
    "memory runs out where weights are copied",
    lambda world: (world.module("nodes.host.run.erase"), "make_denoiser"),
    method="esd-u",
)
shortage(
    "memory runs out where a start in closed form is made",
    lambda world: (world.module("nodes.host.run.erase"), "make_denoiser"),
    closed_form=True,
)
shortage("memory runs out in a trajectory", lambda world: (world.module("esd.trajectory"), "euler_step"))
shortage(
    "memory runs out in a network call", lambda world: (world.module("nodes.host.model.denoiser").HostDenoiser, "_call")
)
shortage("memory runs out in backward", lambda world: (torch.Tensor, "backward"))
shortage("memory runs out in the optimiser", lambda world: (torch.optim.AdamW, "step"))


@state("memory runs out in the text encoder, on the device")
def _(world: World) -> Any:
    if world.gpu is not None:
        with world.set(world.real_clip.patcher, "load_device", world.gpu.device):
            encode = type(world.real_clip), "encode_from_tokens_scheduled"
            fails_for_want_of_room(world, *encode, clip=world.real_clip)
    return world.erase(clip=world.real_clip).weights.differences


@state("memory runs out in a preview")
def _(world: World) -> Any:
    monitor = world.monitor(preview_every=1, vae=world.vae)
    if world.gpu is None:
        return world.erase(monitor=monitor).weights.differences
    with no_room_in(world, type(world.vae), "decode"):
        found = world.erase(monitor=monitor).weights.differences
    said = world.module("nodes.host.run.status").registry().runs[-1].message
    assert "preview failed" in said and "Memory ran out" in said, said
    return found


def run(world: World, name: str) -> dict[str, Any]:
    """One state with what must hold after each: what it gave, what is left on the device, and the host's MODEL."""
    world.clear()
    begun = time.monotonic()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            given = STATES[name](world)
            row = {"digest": digest(*given) if isinstance(given, tuple) else digest(given)}
            del given
            row |= {"peak": second_device.peak() - world.begun, "foretold": world.need.total if world.need else 0}
            row["model drawn"] = digest(world.drawn())
    except Exception as error:  # noqa: BLE001 - the row says it, and the test fails
        row = {"error": f"{type(error).__name__}: {error}"}
    row["seconds"] = round(time.monotonic() - begun, 2)
    world.clear()
    left = second_device.allocated() - world.left_by_the_host
    return {**row, "left": left, "changed": world.bits() != world.as_loaded}


def main() -> None:
    """Run all states, or those named after the file; under DynamicVRAM in each residency."""
    arm, host, out, *names = sys.argv[1:]
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(arm, Path(host), Path(folder))
        for residency, (weights, fleeting) in RESIDENCY.items() if arm == "dynamic" else {"": (None, False)}.items():
            if world.driver is not None:
                world.driver.weights, world.driver.fleeting = weights, fleeting
            for name in names or STATES:
                key = f"{residency}: {name}" if residency else name
                found[key] = run(world, name)
                print(key, found[key], flush=True)
    Path(out).write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
