"""Weights stored in half precision on a device that computes in float32: as the host samples, with nothing copied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CHECKPOINT = Path(__file__).resolve().parents[2] / "workflows" / "models" / "emoji-world.ckpt"
PREFIX = "model.diffusion_model."
NAME = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


def make(model, gradient_checkpointing=False):
    """A denoiser over a MODEL, in the dtype that it is stored in."""
    import copy

    from esd_pack.esd.students import StudentPlan, make_student
    from esd_pack.nodes.host.model.denoiser import HostDenoiser
    from esd_pack.nodes.host.model.host_model import as_host_model
    from esd_pack.nodes.host.model.network import compute_dtype, private_network

    dtype, device = model.model.diffusion_model.dtype, torch.device("cpu")
    sampling = copy.deepcopy(model.get_model_object("model_sampling"))
    host = as_host_model(model)
    network = private_network(host, device, dtype)
    student, compute = make_student(StudentPlan((NAME,)), network), compute_dtype(dtype, device)
    asked = host.family.backward, gradient_checkpointing
    return HostDenoiser(network, sampling, student, (4, 8, 8), device, compute, lambda n: None, *asked)


@pytest.fixture(scope="module")
def stored(comfy):
    """The playground's MODEL stored in bfloat16, and one in float32 of the same rounded values."""
    import comfy.sd

    raw = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    rounded = {k.removeprefix(PREFIX): t.to(torch.bfloat16) for k, t in raw.items() if k.startswith(PREFIX)}

    def load(dtype):
        with torch.inference_mode():
            state = {k: t.to(dtype) for k, t in rounded.items()}
            return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})

    return {dtype: load(dtype) for dtype in (torch.bfloat16, torch.float32)}


@pytest.fixture
def question():
    from esd_pack.esd.denoiser import Condition

    random = torch.Generator().manual_seed(0)
    context = torch.randn((2, 77, 768), generator=random)
    return torch.randn((2, 4, 8, 8), generator=random), torch.tensor([5.0, 0.5]), Condition({"c_crossattn": context})


def test_the_base_answers_as_the_host_s_sampler(stored, question):
    x, sigma, condition = question
    model = stored[torch.bfloat16]
    denoiser = make(model)
    with torch.no_grad():
        expected = model.model.apply_model(x, sigma, c_crossattn=condition.tensors["c_crossattn"])
        found = denoiser.denoised(denoiser.predict(*question), x, sigma)
    assert torch.linalg.norm(found - expected) < 1e-5 * torch.linalg.norm(expected)


def test_the_weights_are_the_host_s_memory(stored):
    model = stored[torch.bfloat16]
    ours = {"diffusion_model." + n: w.data_ptr() for n, w in make(model).network.named_parameters()}
    assert ours == {n: w.data_ptr() for n, w in model.model_state_dict("diffusion_model.").items()}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_are_those_of_float32(stored, question, gradient_checkpointing):
    found = []
    for dtype, switch in ((torch.bfloat16, gradient_checkpointing), (torch.float32, False)):
        denoiser = make(stored[dtype], switch)
        with denoiser.student():
            denoiser.predict(*question).square().mean().backward()
        found.append(denoiser.trainable[NAME].grad)
    assert found[0].dtype is torch.float32
    assert torch.linalg.norm(found[0] - found[1]) < 1e-5 * torch.linalg.norm(found[1])


def test_where_layers_compute(comfy):
    from esd_pack.nodes.host.model.network import compute_dtype

    cpu = torch.device("cpu")
    assert compute_dtype(torch.float32, cpu) is torch.float32
    assert compute_dtype(torch.bfloat16, cpu) is torch.float32
    assert compute_dtype(torch.float16, cpu) is torch.float32


def test_large_calls_without_gradients_go_in_parts(stored, question):
    x, sigma, condition = question
    heard = []
    denoiser = make(stored[torch.float32])
    denoiser.on_forward = heard.append
    with torch.no_grad():
        max_batch = denoiser.predict(*question)
        denoiser.max_batch = 1
        apart = denoiser.predict(*question)
    assert heard == [2, 1, 1]
    assert torch.linalg.norm(apart - max_batch) < 1e-5 * torch.linalg.norm(max_batch)
    denoiser.predict(x, sigma, condition)
    assert heard[3:] == [2]  # a training step is one call


def test_how_many_samples_go_together(comfy):
    from esd_pack.nodes.host.model.denoiser import max_samples

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert max_samples((4, 64, 64), cpu) == 2
    assert max_samples((4, 128, 128), cpu) == 1
    assert max_samples((4, 8, 8), cpu) >= 16
    assert max_samples((4, 128, 128), gpu) >= 1024
