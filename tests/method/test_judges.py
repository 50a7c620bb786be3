"""Judges without a host: likelihood on a model that is known in closed form, and the playground's own network."""

from __future__ import annotations

import pytest
import torch

from commands.playground import judge as trained
from commands.playground import world
from esd_pack.esd.denoiser import Condition
from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate.likelihood import GRID, LEVELS, noise_errors, verdicts
from esd_pack.esd.evaluate.playground_judge import PlaygroundJudge
from support.fakes import FakeDenoiser


class Painter(FakeDenoiser):
    """A model whose x0 under a prompt is always that prompt's picture, a constant."""

    def predict(self, x, sigma, condition):
        self.before_call(None)
        picture = condition.tensors["text"][:, :1, None, None].expand_as(x)
        return (x - picture) / sigma[:, None, None, None]


def told(value):
    return Condition({"text": torch.full((1, 3), value)})


def noised(latents, noise, sigma):
    return latents + sigma[:, None, None, None] * noise


def pictures(*values):
    return torch.stack([torch.full((2, 4, 4), value) for value in values])


class TestLikelihood:
    """The base as its own judge."""

    def test_errors_are_the_distance_to_what_the_prompt_draws(self):
        """eps - eps_base = (x0_base - x0) / sigma in this model, whatever the noise."""
        found = noise_errors(Painter(), [told(0.0), told(1.0)], pictures(0.25, 1.0), noised)
        grid = FakeDenoiser().sigmas(GRID)
        weight = sum(1 / float(grid[level]) ** 2 for level in LEVELS) / len(LEVELS)
        wanted = torch.tensor([[0.25**2, 0.75**2], [1.0, 0.0]]) * weight
        assert torch.allclose(found, wanted.double(), rtol=1e-4, atol=1e-6)

    def test_the_answer_is_the_least_error_and_may_be_nothing(self):
        errors = torch.tensor([[1.0, 0.5, 0.8], [1.0, 2.0, 1.5], [2.0, 1.9, 1.0]])
        made = verdicts(errors, ("cat", "dog"))
        assert made.found.tolist() == [[True, False], [False, False], [False, True]]
        assert [row[0] for row in made.answers] == ["cat", "", "dog"]
        assert made.scores[0].tolist() == pytest.approx([0.5, 0.2]) and made.scores[1, 0] == -1

    def test_company_changes_nothing(self):
        denoiser, conditions = FakeDenoiser(), [told(0.0), told(0.7), told(-0.4)]
        latents = torch.randn((5, 2, 4, 4), generator=torch.Generator().manual_seed(1))
        together = noise_errors(denoiser, conditions, latents, noised)
        alone = torch.cat([noise_errors(denoiser, conditions, each[None], noised) for each in latents])
        assert torch.allclose(together, alone, rtol=1e-5)
        turned = noise_errors(denoiser, conditions[::-1], latents, noised)
        assert torch.allclose(turned.flip(1), together, rtol=1e-6)

    def test_what_it_costs_and_that_nothing_global_moves(self):
        denoiser, state = FakeDenoiser(), torch.get_rng_state()
        noise_errors(denoiser, [told(0.0), told(1.0)], pictures(0.0, 0.5, 1.0), noised)
        assert denoiser.passes == 3 * 2 * len(LEVELS) and torch.equal(state, torch.get_rng_state())
        assert not any(call.student or call.training for call in denoiser.calls)


@pytest.fixture(scope="module")
def playground_judge():
    return PlaygroundJudge(world.FOLDER)


class TestPlayground:
    """The shipped network, read anew."""

    def test_it_is_the_network_that_was_trained(self, playground_judge):
        images = torch.rand((6, 64, 64, 3), generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            wanted = trained.load_judge()(images.permute(0, 3, 1, 2))
        for ours, theirs in zip(playground_judge.logits(images).values(), wanted, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.1

    def test_its_names_are_the_world_s(self, playground_judge):
        assert list(playground_judge.names.values()) == list(world.HEADS.values())
        subjects = [world.Subject(head, name).prompt for head, names in world.HEADS.items() for name in names]
        playground_judge.check(subjects)

    def test_each_label_is_answered_by_its_own_head(self, playground_judge):
        images = torch.rand((4, 64, 64, 3), generator=torch.Generator().manual_seed(3))
        verdict = trained.load_judge().judge(images)
        labels = ("cat", f"{world.STYLES[0]} style", *world.OBJECTS)
        made = playground_judge.judge(images, labels)
        assert [row[0] for row in made.answers] == verdict.objects and [r[1] for r in made.answers] == verdict.styles
        for row, name in zip(made.found, verdict.objects, strict=True):
            assert [label for label, hit in zip(labels[2:], row[2:], strict=True) if hit] == [name]
        assert torch.allclose(made.scores[:, 2:].sum(1), torch.ones(4), atol=1e-5)

    def test_what_it_does_not_know(self, playground_judge):
        with pytest.raises(EsdError, match='does not know "zebra": write one of the playground'):
            playground_judge.check(["cat", "zebra"])

    def test_pictures_of_another_size(self, playground_judge):
        with pytest.raises(EsdError, match="looks at pictures of 64 x 64, not 32 x 16: draw them so"):
            playground_judge.judge(torch.zeros(1, 16, 32, 3), ["cat"])

    def test_files_that_are_gone(self, tmp_path):
        with pytest.raises(EsdError, match="install the plugin anew"):
            PlaygroundJudge(tmp_path)
