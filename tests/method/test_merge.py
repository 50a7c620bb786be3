"""Merging: sums, the shortest change that reaches along each erasure, low-rank and full changes, and what is said."""

from __future__ import annotations

import json

import pytest
import torch

from esd_pack.esd.closed_form import RIDGE, second_moment, staying_prompts
from esd_pack.esd.erasure import Erasure, LowRankChange
from esd_pack.esd.errors import EsdError
from esd_pack.esd.merge import BY_PROMPTS, MODES, PROJECTED, SUM, least_reaching, merge
from esd_pack.esd.merge_by_prompts import concepts_of

NAME = "diffusion_model.a.weight"
VALUES, OUT = "diffusion_model.a.attn2.to_v.weight", "diffusion_model.a.attn2.to_out.0.weight"
ADDING = [mode for mode in MODES if mode != BY_PROMPTS]
WIDTH = 400
"""Wide enough that the tokens of a few dozen prompts can be told apart."""


def full(*rows: list[float], **metadata: str) -> Erasure:
    return Erasure({NAME: torch.tensor(rows)}, {f"esd.{key}": value for key, value in metadata.items()})


def drawn(seed: int, rank: int) -> LowRankChange:
    generator = torch.Generator().manual_seed(seed)
    return LowRankChange(torch.randn((6, rank), generator=generator), torch.randn((rank, 5), generator=generator))


@pytest.mark.parametrize("mode", ADDING)
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


@pytest.mark.parametrize("mode", ADDING)
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
    said = merge([one, other], SUM).metadata
    assert said["esd.family"] == "SD1.x" and "esd.seed" not in said
    assert [each["erase"] for each in json.loads(said["esd.concepts"])] == ["cat", "dog"]
    assert said["esd.merged"] == "2 erasures, sum"


def tokens(prompt: str) -> torch.Tensor:
    """One token for each word, the same wherever it stands, behind one for the start."""
    seeds = (sum(b * 31**i for i, b in enumerate(word.encode())) for word in ("<start>", *prompt.split()))
    randoms = (torch.Generator().manual_seed(seed % 2**63) for seed in seeds)
    return torch.stack([torch.randn(WIDTH, generator=each, dtype=torch.float64) for each in randoms])


def erasing(word: str, seed: int, rank: int = 0, **metadata: str) -> Erasure:
    """An erasure that changes values at random, for all prompts, and another layer."""
    random = torch.Generator().manual_seed(seed)
    up, down, out = (torch.randn(size, generator=random) for size in ((6, 3), (3, WIDTH), (2, 2)))
    said = {"esd.concepts": json.dumps([{"erase": word, "contexts": [{"prompt": f"a photo of a {word}"}]}]), **metadata}
    if rank:
        return Erasure({OUT: out}, said, {VALUES: LowRankChange(up[:, :rank], down[:rank])})
    return Erasure({VALUES: up @ down, OUT: out}, said)


def moved(erasure: Erasure, prompt: str) -> torch.Tensor:
    """What an erasure adds to the values of a prompt's own words."""
    return tokens(prompt)[1:] @ erasure.change(VALUES).double().mT


@pytest.mark.parametrize("rank", [0, 2])
def test_by_prompts_each_acts_on_its_own_words_and_no_other(rank):
    one, other = erasing("axolotl", 1, rank), erasing("quokka", 2)
    made = merge([one, other], BY_PROMPTS, tokens, ["gecko"])
    for word, own in (("axolotl", one), ("quokka", other)):
        torch.testing.assert_close(moved(made, word), moved(own, word), rtol=0.02, atol=0.2)
        assert float(moved(merge([one, other], SUM), word).sub(moved(own, word)).norm()) > 10
    for kept in ("gecko", "dog", "house"):
        assert float(moved(made, kept).norm()) < 0.05 * float(moved(one, kept).norm())
    assert torch.equal(made.differences[OUT], one.differences[OUT] + other.differences[OUT])
    low = merge([one, one], BY_PROMPTS, tokens)
    assert bool(low.low_rank) == bool(rank)


def test_by_prompts_the_same_erasure_twice_counts_once():
    one = erasing("axolotl", 1)
    once, twice = (moved(merge([one] * count, BY_PROMPTS, tokens), "axolotl") for count in (1, 2))
    torch.testing.assert_close(once, twice, rtol=0.02, atol=0.1)


def test_by_prompts_what_an_erasure_kept_stays():
    kept, off = ({"esd.keeps": json.dumps([{"prompts": ["gecko"], "weight": weight}])} for weight in (1.0, 0))
    plain, keeping, without = (merge([erasing("axolotl", 1, **s)], BY_PROMPTS, tokens) for s in ({}, kept, off))
    assert float(moved(keeping, "gecko").norm()) < 0.1 * float(moved(plain, "gecko").norm())
    assert torch.equal(without.differences[VALUES], plain.differences[VALUES])


def test_by_prompts_solves_its_least_squares():
    """Against a solver of stacked rows: sqrt(share) (M e - D_i e) = 0, and what stays."""
    parts = [erasing(word, seed) for seed, word in enumerate(("axolotl", "quokka"))]
    found = merge(parts, BY_PROMPTS, tokens).differences[VALUES].double()
    concepts = [concept for part in parts for concept in concepts_of(part.metadata)]
    stay = [tokens(prompt) for prompt in staying_prompts(concepts)]
    ridge = RIDGE * second_moment(stay).diagonal().mean()
    rows, wanted = [torch.eye(WIDTH, dtype=torch.float64) * ridge.sqrt()], [torch.zeros((WIDTH, 6)).double()]
    for part, concept in zip(parts, concepts, strict=True):
        for prompt in (concept.student_prompt, *(context.prompt for context in concept.contexts)):
            rows.append(0.5**0.5 * tokens(prompt))
            wanted.append(rows[-1] @ part.differences[VALUES].double().mT)
    rows += [each / len(stay) ** 0.5 for each in stay]
    wanted += [torch.zeros((len(each), 6)).double() for each in stay]
    exact = torch.linalg.lstsq(torch.cat(rows), torch.cat(wanted)).solution.mT
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("erasures", "mode", "message"),
    [
        ([], SUM, "nothing to merge"),
        ([full([1.0])], "mean", 'no merge "mean"'),
        ([full([1.0]), full([1.0, 2.0])], SUM, "different kinds of model"),
        ([full([1.0]), full([float("nan")])], PROJECTED, "NaN or infinity"),
        ([erasing("", 1)], BY_PROMPTS, "Erasure 1 does not say what it erases"),
        ([full([1.0]), full([float("inf")])], SUM, "NaN or infinity"),
        ([full([1.0], concepts='[{"erase": "cat"}]')], BY_PROMPTS, "no keys or values of text"),
        ([Erasure({VALUES: torch.ones(2, 3)}, {"esd.concepts": '[{"erase": "cat"}]'})], BY_PROMPTS, "trained for 3"),
    ],
)
def test_what_cannot_be_merged_is_refused(erasures, mode, message):
    with pytest.raises(EsdError, match=message):
        merge(erasures, mode, tokens)


def test_by_prompts_refuses_before_it_encodes():
    def asked(prompt: str) -> torch.Tensor:
        raise AssertionError(prompt)

    for one, message in ((full([1.0], concepts='[{"erase": "cat"}]'), "no keys"), (erasing("", 1), "does not say")):
        with pytest.raises(EsdError, match=message):
            merge([one], BY_PROMPTS, asked)


def test_by_prompts_an_erasure_of_other_weights_takes_nothing_from_the_others():
    one, elsewhere = erasing("axolotl", 1), Erasure({OUT: torch.ones(2, 2)}, erasing("axolotl", 1).metadata)
    alone, both = (merge(each, BY_PROMPTS, tokens) for each in ([one], [elsewhere, one]))
    assert torch.equal(alone.differences[VALUES], both.differences[VALUES])
    assert torch.equal(both.differences[OUT], one.differences[OUT] + 1)


def test_what_was_kept_in_merging_is_known_to_the_next():
    made = merge([erasing("axolotl", 1)], BY_PROMPTS, tokens, ["gecko"])
    assert json.loads(made.metadata["esd.keeps"]) == [{"prompts": ["gecko"], "weight": 1.0}]


def test_by_prompts_needs_the_text_encoder():
    with pytest.raises(EsdError, match="connect the CLIP"):
        merge([full([1.0])], BY_PROMPTS)


def test_concepts_are_read_from_any_metadata():
    stored = [{"erase": each} for each in ("cat", "", 3, "  ", "\ud83d")] + [{"erase": "x", "kind": "odd"}]
    cat, odd = concepts_of({"esd.concepts": json.dumps(stored)})
    assert cat.student_prompt == "cat" and "a photo of a cat" in [context.prompt for context in cat.contexts]
    assert odd.kind == "" and odd.contexts
    stored = {
        "erase": "hat",
        "erase_from": "man in a hat",
        "contexts": [{"prompt": "x hat"}, {"prompt": 3}, "y", {"prompt": "\ud83d"}],
    }
    (hat,) = concepts_of({"esd.concepts": json.dumps([stored])})
    assert hat.student_prompt == "man in a hat" and [context.prompt for context in hat.contexts] == ["x hat"]
    assert concepts_of({"esd.concepts": "[["}) == [] and concepts_of({}) == []
