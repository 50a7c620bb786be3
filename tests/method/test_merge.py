"""Merging: sums, the shortest change that reaches along each erasure, low-rank and full changes, and what is said."""

from __future__ import annotations

import json

import pytest
import torch

from esd_pack.esd.erasure import Erasure, LowRankChange
from esd_pack.esd.errors import EsdError
from esd_pack.esd.merge import MODES, PROJECTED, SUM, least_reaching, merge

NAME = "diffusion_model.a.weight"


def full(*rows: list[float], **metadata: str) -> Erasure:
    return Erasure({NAME: torch.tensor(rows)}, {f"esd.{key}": value for key, value in metadata.items()})


def drawn(seed: int, rank: int) -> LowRankChange:
    generator = torch.Generator().manual_seed(seed)
    return LowRankChange(torch.randn((6, rank), generator=generator), torch.randn((rank, 5), generator=generator))


@pytest.mark.parametrize("mode", MODES)
def test_one_erasure_is_itself_and_strangers_to_each_other_are_added(mode):
    one, other = full([3.0, 0.0]), full([0.0, 4.0])
    assert torch.equal(merge([one], mode).differences[NAME], one.differences[NAME])
    assert torch.allclose(merge([one, other], mode).differences[NAME], torch.tensor([[3.0, 4.0]]))
    apart = Erasure({"diffusion_model.b.weight": torch.ones(2)})
    assert set(merge([one, apart], mode).names) == {NAME, "diffusion_model.b.weight"}


def test_what_erasures_share_counts_once_when_projected():
    same = [full([3.0, 1.0])] * 5
    assert torch.allclose(merge(same, PROJECTED).differences[NAME], torch.tensor([[3.0, 1.0]]))
    assert torch.allclose(merge(same, SUM).differences[NAME], torch.tensor([[15.0, 5.0]]))
    longer = merge([full([1.0, 0.0]), full([2.0, 0.1])], PROJECTED)
    assert torch.allclose(longer.differences[NAME], torch.tensor([[2.0, 0.1]]))  # the first is in it already


def test_the_result_reaches_along_each_and_is_the_shortest_that_does():
    """By the conditions of Karush, Kuhn and Tucker: reached, never negative, and slack only where the share is 0."""
    changes = torch.randn((7, 4, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.7
    grams = changes @ changes.mT
    shares = least_reaching(grams)
    over = (grams @ shares[..., None])[..., 0] - grams.diagonal(dim1=1, dim2=2)
    assert bool((shares >= 0).all()) and float(over.min()) > -1e-6 and float((over * shares).abs().max()) < 1e-5


def test_the_order_does_not_matter():
    erasures = [Erasure({NAME: drawn(seed, 3).dense()}) for seed in range(4)]
    there, back = (merge(each, PROJECTED).differences[NAME] for each in (erasures, erasures[::-1]))
    assert torch.allclose(there, back, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_low_rank_changes_stay_low_rank_and_are_the_same_change(mode):
    parts = [drawn(1, 2), drawn(2, 3)]
    low = merge([Erasure({}, low_rank={NAME: part}) for part in parts], mode)
    whole = merge([Erasure({NAME: part.dense()}) for part in parts], mode)
    mixed = merge([Erasure({}, low_rank={NAME: parts[0]}), Erasure({NAME: parts[1].dense()})], mode)
    assert low.low_rank[NAME].down.shape[0] <= 5 and not low.differences
    assert torch.allclose(low.change(NAME), whole.change(NAME), atol=1e-5)
    assert torch.allclose(mixed.change(NAME), whole.change(NAME), atol=1e-5) and not mixed.low_rank


def test_the_metadata_says_what_all_have_in_common_and_every_concept():
    one = full([1.0], family="SD1.x", seed="1", concepts=json.dumps([{"erase": "cat"}]))
    other = full([2.0], family="SD1.x", seed="2", concepts=json.dumps([{"erase": "dog"}]))
    said = merge([one, other]).metadata
    assert said["esd.family"] == "SD1.x" and "esd.seed" not in said
    assert [each["erase"] for each in json.loads(said["esd.concepts"])] == ["cat", "dog"]
    assert said["esd.merged"] == "2 erasures, sum"


@pytest.mark.parametrize(
    ("erasures", "mode", "message"),
    [
        ([], SUM, "nothing to merge"),
        ([full([1.0])], "mean", 'no merge "mean"'),
        ([full([1.0]), full([1.0, 2.0])], SUM, "different kinds of model"),
        ([full([1.0]), full([float("nan")])], PROJECTED, "NaN or infinity"),
    ],
)
def test_what_cannot_be_merged_is_refused(erasures, mode, message):
    with pytest.raises(EsdError, match=message):
        merge(erasures, mode)
