"""The training loop, on a fake denoiser."""

from __future__ import annotations

import random as python_random
import sys
from dataclasses import replace

import numpy
import pytest
import torch

from esd_pack.esd import random_streams, train
from esd_pack.esd.concepts import Keep, make_concept
from esd_pack.esd.errors import EsdError
from esd_pack.esd.examples import ExampleStream, keep_specs, target_spec
from esd_pack.esd.optimizers import make_optimizer
from esd_pack.esd.settings import ALL_STEPS, Settings
from support.fakes import FakeConditions, FakeDenoiser

CAT = make_concept("cat")
SETTINGS = Settings(
    steps=12,
    learning_rate=1e-2,
    num_inference_steps=4,
    guidance_scale=3.0,
    samples_per_trajectory=4,
    strided=False,
    buffer_size=8,
    stop=ALL_STEPS,
)
SEEDLESS = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}


def run(settings=SETTINGS, concepts=(CAT,), keeps=(), denoiser=None, report=lambda step: False):
    """A run on a fresh fake: what it answers to, and its losses."""
    denoiser = denoiser or FakeDenoiser()
    return denoiser, train.erase(denoiser, FakeConditions(), concepts, settings, keeps, on_step=report).losses


def equal(a: FakeDenoiser, b: FakeDenoiser) -> bool:
    return all(torch.equal(a.trainable[name], b.trainable[name]) for name in a.trainable)


def trained_on(denoiser: FakeDenoiser) -> list[train.Tensor]:
    return [call.x for call in denoiser.calls if call.training]


def examples_of(settings, concept=CAT):
    """The very examples that a run with these settings draws."""
    generator = random_streams.stream_generator(settings.seed, 0)
    return list(
        ExampleStream(
            FakeDenoiser(),
            FakeConditions(),
            [(target_spec(concept, settings), 1.0)],
            settings,
            settings.examples,
            generator,
        )
    )


def test_training_is_adam_on_the_mean_square():
    """Losses and weights of a run equal those of a plain loop with the paper's optimiser on the same examples."""
    denoiser, losses = run()
    plain = FakeDenoiser()
    adam = torch.optim.Adam(plain.trainable.values(), lr=SETTINGS.learning_rate)
    expected = []
    for example in examples_of(SETTINGS):
        adam.zero_grad()
        with plain.student():
            answer = plain.predict(example.x[None], torch.tensor([example.sigma]), FakeConditions()["cat"])
        value = torch.nn.functional.mse_loss(answer[0], example.target)
        value.backward()
        adam.step()
        expected.append(value.item())
    assert losses == pytest.approx(expected, rel=1e-6)
    assert all(torch.allclose(denoiser.trainable[n], plain.trainable[n], atol=1e-7) for n in plain.trainable)


def test_training_erases():
    """At the end the student answers "cat" as the target wants, and the base still as before."""
    settings = replace(SETTINGS, steps=400, buffer_size=400)
    denoiser, losses = run(settings)
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])
    fresh = FakeDenoiser()
    assert all(torch.equal(denoiser.base[name], fresh.base[name]) for name in fresh.base)
    assert all(weight.abs().max() > 0.01 for weight in denoiser.difference().values())


def test_same_seed_same_weights_bit_for_bit():
    (first, losses), (again, losses_again), (other, losses_other) = (
        run(replace(SETTINGS, seed=seed)) for seed in (5, 5, 6)
    )
    assert equal(first, again) and losses == losses_again
    assert not equal(first, other) and losses != losses_other


def test_seeds_of_64_bits_are_accepted():
    (first, _), (other, _) = (run(replace(SETTINGS, seed=seed, steps=1)) for seed in (2**64 - 1, 2**64 - 2))
    assert not equal(first, other)


def test_global_random_state_is_neither_read_nor_moved():
    def state():
        return torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), python_random.getstate()

    torch.manual_seed(1)
    before = state()
    first, _ = run(keeps=(Keep(("dog",)),))
    assert state() == before
    torch.manual_seed(2)
    numpy.random.seed(2)
    python_random.seed(2)
    again, _ = run(keeps=(Keep(("dog",)),))
    assert equal(first, again)


def test_a_batch_equals_the_same_points_accumulated():
    batched, losses = run(replace(SETTINGS, batch_size=4))
    accumulated, losses_too = run(replace(SETTINGS, gradient_accumulation_steps=4))
    assert losses == pytest.approx(losses_too, rel=1e-5)
    assert all(torch.allclose(batched.trainable[n], accumulated.trainable[n], atol=1e-6) for n in batched.trainable)
    assert [len(x) for x in trained_on(batched)] == [4] * 12
    assert [len(x) for x in trained_on(accumulated)] == [1] * 48
    assert torch.equal(torch.cat(trained_on(batched)), torch.cat(trained_on(accumulated)))
    for name, weight in batched.trainable.items():  # Adam would hide a factor
        assert torch.allclose(weight.grad, accumulated.trainable[name].grad, rtol=1e-4)


def test_batch_loss_is_the_mean_over_its_points():
    settings = replace(SETTINGS, batch_size=4, steps=1)
    _, losses = run(settings)
    base = FakeDenoiser()
    each = [
        torch.nn.functional.mse_loss(
            base.predict(e.x[None], torch.tensor([e.sigma]), FakeConditions()["cat"])[0], e.target
        ).item()
        for e in examples_of(settings)
    ]
    assert losses == pytest.approx([sum(each) / 4], rel=1e-5)


def test_keep_weight_0_is_exactly_esd():
    (plain, losses), (kept, losses_too) = run(), run(keeps=(Keep(("dog", "apple"), 0.0),))
    assert equal(plain, kept) and losses == losses_too and plain.passes == kept.passes


def test_keeps_do_not_move_what_the_concepts_draw():
    settings = replace(SETTINGS, batch_size=2)
    (plain, _), (kept, _) = run(settings), run(settings, keeps=(Keep(("dog", "apple")),))
    assert not equal(plain, kept)
    assert all(len(x) == 4 for x in trained_on(kept))
    assert torch.equal(torch.cat(trained_on(plain)), torch.cat([x[:2] for x in trained_on(kept)]))
    levels = torch.stack([call.sigma for call in kept.calls if call.training])
    assert not torch.equal(levels[:, :2], levels[:, 2:])  # nor do the keeps copy them


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_loss_with_keeps_is_the_concept_s_plus_weight_times_the_keeps(weight):
    """The first step, whose keep term is 0 as the student is still the base; then a moved one, whose is not."""
    settings = replace(SETTINGS, steps=1)
    keep = Keep(("dog",), weight)
    (_, alone), (_, both) = run(settings), run(settings, keeps=(keep,))
    assert both == pytest.approx(alone, rel=1e-5)
    losses = {}
    for name, keeps in (("alone", ()), ("both", (keep,))):
        moved = FakeDenoiser()
        with torch.no_grad():
            moved.trainable["text.weight"] += 0.3
        _, losses[name] = run(settings, keeps=keeps, denoiser=moved)
    base = FakeDenoiser()
    (kept_x,) = [call.x[1:] for call in moved.calls if call.training]
    (kept_sigma,) = [call.sigma[1:] for call in moved.calls if call.training]
    answer = base.predict(kept_x, kept_sigma, FakeConditions()["dog"])
    base.trainable["text.weight"].data += 0.3
    with base.student():
        kept = torch.nn.functional.mse_loss(base.predict(kept_x, kept_sigma, FakeConditions()["dog"]), answer).item()
    assert losses["both"][0] == pytest.approx(losses["alone"][0] + weight * kept, rel=1e-5)


def test_keeping_keeps():
    """With the neighbour kept, its predictions move less, on examples that no run has seen."""
    settings, keep = replace(SETTINGS, steps=200, buffer_size=200), Keep(("dog",), 4.0)
    specs = [(each, 1.0) for each in keep_specs([keep])]
    fresh = list(
        ExampleStream(FakeDenoiser(), FakeConditions(), specs, settings, 40, torch.Generator().manual_seed(99))
    )
    change = []
    for keeps in ((), (keep,)):
        denoiser, _ = run(settings, keeps=keeps)
        with denoiser.student(), torch.no_grad():
            moved = [
                denoiser.predict(e.x[None], torch.tensor([e.sigma]), FakeConditions()["dog"])[0] - e.target
                for e in fresh
            ]
        change.append(torch.stack(moved).square().mean().item())
    assert change[1] < 0.5 * change[0]


def test_several_concepts_are_all_trained():
    prompts = []
    run(
        replace(SETTINGS, steps=40),
        (CAT, make_concept("dog"), make_concept("hat", "cowboy")),
        report=lambda step: prompts.append(step.prompt) or False,
    )
    assert set(prompts) == {"cat", "dog", "cowboy"}


def test_reports_say_what_each_step_did():
    steps = []
    _, losses = run(report=lambda step: steps.append(step) or False)
    assert [(s.index, s.total, s.loss) for s in steps] == [(i, 12, loss) for i, loss in enumerate(losses)]
    assert [s.sigma for s in steps] == [example.sigma for example in examples_of(SETTINGS)]


def test_a_report_can_end_the_run_early():
    denoiser, losses = run(report=lambda step: step.index == 4)
    _, full = run()
    assert losses == full[:5]
    assert any(weight.abs().max() > 0 for weight in denoiser.difference().values())


class CancelledError(Exception):
    """What a host raises to cancel."""


def test_a_report_and_a_call_may_raise_to_cancel():
    def cancel(_):
        raise CancelledError

    reporting = FakeDenoiser()
    with pytest.raises(CancelledError):
        run(denoiser=reporting, report=cancel)
    calling = FakeDenoiser(lambda call: cancel(call) if call.training else None)
    with pytest.raises(CancelledError):
        run(denoiser=calling)
    for denoiser in (reporting, calling):
        assert denoiser.answering is denoiser.base


@pytest.mark.parametrize("source", ["base", "student"])
def test_only_the_training_call_and_the_student_s_walks_use_the_student(source):
    denoiser, _ = run(replace(SETTINGS, sampler_model=source, buffer_size=4))
    walks = [call for call in denoiser.calls if not call.training]
    assert all(call.student for call in denoiser.calls if call.training)
    assert {call.student for call in walks} == ({False} if source == "base" else {True, False})


def test_a_loss_that_is_not_finite_names_its_step():
    denoiser = FakeDenoiser()
    with pytest.raises(EsdError, match=r"The loss became (inf|nan) at step 2, .* lower the learning rate"):
        run(replace(SETTINGS, learning_rate=1e30), denoiser=denoiser)
    assert sum(call.training for call in denoiser.calls) == 2
    assert all(torch.equal(denoiser.base[name], weight) for name, weight in FakeDenoiser().base.items())
    assert denoiser.answering is denoiser.base


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_optimisers_learn(optimizer):
    _, losses = run(replace(SETTINGS, steps=200, buffer_size=200, optimizer=optimizer))
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.parametrize("size", [3.0, 0.03])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_learning_rate_means_the_same_to_every_optimiser(optimizer, size):
    """The first step moves a weight by about the rate, whatever the size of the weights."""
    weight = torch.nn.Parameter(torch.full((8, 8), size))
    made = make_optimizer(optimizer, [weight], 1e-3)
    weight.grad = torch.ones(8, 8)
    made.step()
    assert torch.allclose(size - weight.detach(), torch.full((8, 8), 1e-3), rtol=0.05)


@pytest.mark.parametrize(("optimizer", "kind"), SEEDLESS.items())
def test_the_chosen_optimiser_is_made_without_weight_decay(optimizer, kind):
    made = make_optimizer(optimizer, [torch.nn.Parameter(torch.ones(2, 2))], SETTINGS.learning_rate)
    assert type(made) is kind
    assert (made.defaults["weight_decay"], made.defaults["lr"]) == (0.0, SETTINGS.learning_rate)


def test_adamw8bit_without_its_package_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EsdError, match=r"adamw8bit needs the bitsandbytes package.* choose adamw or adafactor"):
        run(replace(SETTINGS, optimizer="adamw8bit"))


class Scaled(FakeDenoiser):
    """Gradients that overflow where the loss is scaled by more than `most`, as in float16."""

    def __init__(self, scale: float, most: float = 1e9) -> None:
        super().__init__()
        self.loss_scale, self.overflowed = scale, 0
        for weight in self.trainable.values():
            weight.register_hook(lambda gradient: self.watch(gradient, most))

    def watch(self, gradient, most):
        if gradient.abs().max() > most:
            self.overflowed += 1
            return gradient * float("inf")
        return gradient


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_scaled_loss_gives_the_same_weights(accumulate):
    """A power of two changes no bit of a gradient that does not vanish."""
    settings = replace(SETTINGS, gradient_accumulation_steps=accumulate)
    plain, scaled = run(settings), run(settings, denoiser=Scaled(2.0**16))
    assert equal(plain[0], scaled[0]) and plain[1] == scaled[1]


def test_gradients_that_overflow_are_computed_again_with_less():
    plain, scaled = run(), run(denoiser=Scaled(2.0**16, most=1e6))
    assert scaled[0].overflowed and equal(plain[0], scaled[0]) and plain[1] == scaled[1]


def test_gradients_that_overflow_without_a_scale_end_the_run():
    with pytest.raises(EsdError, match="gradient became"):
        run(denoiser=Scaled(2.0**8, most=1e-6))
