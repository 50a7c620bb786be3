"""The formula of the paper, and the table that turns each release's guidance into the paper's eta."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.objective import ETA_OFFSET, eta_from_negative_guidance, loss, target
from esd_pack.esd.presets import PRESETS

SHAPE = (3, 2, 4, 4)


def predictions(seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=random, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0, -1.0])
def test_target_is_equation_7(eta):
    null, concept, _ = predictions()
    expected = [
        (1 + eta) * n - eta * c for n, c in zip(null.flatten().tolist(), concept.flatten().tolist(), strict=True)
    ]
    assert target(null, concept, null, eta).flatten().tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_coefficients_sum_to_one(eta):
    """Then the combination is the same in every space that is affine in the prediction, x0 and velocity among them."""
    (anchor, erase, null), (x, _, _) = predictions(), predictions(1)
    assert torch.allclose(target(x, x, x, eta), x)
    sigma = 2.5
    in_x0 = target(x - sigma * anchor, x - sigma * erase, x - sigma * null, eta)
    assert torch.allclose(in_x0, x - sigma * target(anchor, erase, null, eta))


def test_loss_is_the_mean_square():
    prediction, wanted, _ = predictions()
    assert torch.allclose(loss(prediction, wanted), torch.nn.functional.mse_loss(prediction, wanted))


def test_loss_weighs_each_sample():
    prediction, wanted, _ = predictions()
    each = torch.stack([torch.nn.functional.mse_loss(p, w) for p, w in zip(prediction, wanted, strict=True)])
    weights = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    assert torch.allclose(loss(prediction, wanted, weights), (each[0] + each[1] / 2) / 3)


@pytest.mark.parametrize(
    ("era", "anchored_to_concept"),
    [
        ("paper-2023", False),
        ("official-2023-compvis", False),
        ("official-2024-diffusers", False),
        ("official-2025", True),
        ("official-2026", True),
    ],
)
@pytest.mark.parametrize("negative_guidance", [1.0, 2.0, 5.0])
def test_eta_table_gives_each_release_s_own_target(era, anchored_to_concept, negative_guidance):
    """The official target is eps(f) - ng (eps(c) - eps(null)); f is the empty prompt, or since 2025 the concept."""
    null, concept, _ = predictions()
    official = (concept if anchored_to_concept else null) - negative_guidance * (concept - null)
    assert torch.allclose(
        target(null, concept, null, eta_from_negative_guidance(negative_guidance, era, False)), official
    )


@pytest.mark.parametrize("era", sorted(ETA_OFFSET))
def test_with_erase_from_every_release_means_the_same(era):
    null, concept, erase_from = predictions()
    official = erase_from - 2.0 * (concept - null)
    assert torch.allclose(target(erase_from, concept, null, eta_from_negative_guidance(2.0, era, True)), official)


@pytest.mark.parametrize(
    ("preset", "era", "negative_guidance"),
    [
        ("paper-2023", "paper-2023", 1.0),
        ("official-2024-sd", "official-2024-diffusers", 2.0),
        ("official-2025-sdxl", "official-2025", 1.0),
        ("official-2026", "official-2026", 2.0),
    ],
)
def test_presets_hold_the_paper_s_eta(preset, era, negative_guidance):
    fields = PRESETS[preset]
    assert fields["eta"] == eta_from_negative_guidance(negative_guidance, era, erase_from=False)
    with_erase_from = fields["eta"] if fields["eta_erase_from"] is None else fields["eta_erase_from"]
    assert with_erase_from == eta_from_negative_guidance(negative_guidance, era, erase_from=True)
