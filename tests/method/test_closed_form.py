"""The closed-form start: the solution of its least squares, what stays, and students that begin with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esd_pack.esd.closed_form import (
    MOST_ETA,
    OTHERS,
    RIDGE,
    STYLE,
    TextEdit,
    fits,
    other_styles,
    second_moment,
    staying_prompts,
    text_edit,
)
from esd_pack.esd.concepts import Concept, make_concept, without
from esd_pack.esd.contexts import by_kind
from esd_pack.esd.examples import concept_specs
from esd_pack.esd.settings import Settings
from esd_pack.esd.students import StudentPlan, make_student
from esd_pack.esd.train import Training
from esd_pack.esd.until_gone import settled
from support.fakes import FakeConditions, FakeDenoiser

TOKENS, WIDTH = 5, 12
CAT, DOG, INK = make_concept("cat"), make_concept("a dog"), make_concept("ink style")
ATTRIBUTE = make_concept("hat", erase_from="man in a hat")


def tokens(prompt: str) -> torch.Tensor:
    """Any prompt as random tokens of its own; a long one takes twice as many."""
    random = torch.Generator().manual_seed(sum(prompt.encode()))
    return torch.randn((TOKENS * (2 if "long" in prompt else 1), WIDTH), generator=random, dtype=torch.float64)


def staying() -> torch.Tensor:
    return second_moment(map(tokens, ("", "dog", "tree", "a long prompt")))


@pytest.mark.parametrize(
    "concepts",
    [[CAT], [DOG], [make_concept("cat", replace_with="dog")], [make_concept("a long cat", weight=3.0), DOG]],
)
def test_it_is_the_least_squares_solution(concepts: list[Concept]) -> None:
    """Against a solver of stacked rows: sqrt(share) B e = sqrt(share) (wanted - e), sqrt of the rest B = 0."""
    chosen, settings = by_kind(concepts), Settings(eta=0.7)
    rest = staying()
    found = text_edit(tokens, chosen, settings, rest)
    rows, keys, values = [], [], []
    specs = [spec for concept in chosen for spec in concept_specs(concept, settings)]
    mean = sum(share for _, share in specs) / len(chosen)
    for spec, share in specs:
        of = [tokens(prompt) for prompt in (spec.prompt, spec.anchor, spec.erase, spec.null)]
        most = max(len(each) for each in of)
        prompt, anchor, erase, null = (each.repeat(most // len(each), 1) for each in of)
        root = (share / mean) ** 0.5
        rows.append(root * prompt)
        keys.append(root * (anchor - prompt))
        eta = 0.0 if concepts[0].replace_with else 0.7
        values.append(root * (anchor - eta * (erase - null) - prompt))
    held = torch.linalg.cholesky(rest + RIDGE * rest.diagonal().mean() * torch.eye(WIDTH, dtype=rest.dtype)).mT
    for edit, wanted in ((found.keys, keys), (found.values, values)):
        system, right = torch.cat([*rows, held]), torch.cat([*wanted, torch.zeros_like(held)])
        solved = torch.linalg.lstsq(system, right).solution.mT
        torch.testing.assert_close(edit.double(), solved, rtol=1e-4, atol=1e-6)


def test_a_style_is_pushed_away_from_other_styles() -> None:
    """Keys and values alike, from the mean of the prompts in those; a style without a name is left alone."""
    rest, settings = staying(), Settings(eta=0.7)
    own = "old ink style"
    others = other_styles(own, "ink style")
    assert len(others) == len(set(others)) == OTHERS and all(p.split()[::2] == ["old", "style"] for p in others)
    assert other_styles("cat in van gogh style", "van gogh style")[0] == "cat in modern gothic style"
    found = text_edit(tokens, [make_concept(own)], settings, rest)
    e = tokens(own)
    mean = sum(tokens(p) for p in other_styles(own, own)) / OTHERS
    moment = rest + RIDGE * rest.diagonal().mean() * torch.eye(WIDTH, dtype=rest.dtype) + STYLE * e.mT @ e
    wanted = torch.linalg.solve(moment, STYLE * (1.7 * (mean - e)).mT @ e, left=False)
    torch.testing.assert_close(found.keys.double(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.keys, found.values) and set(other_styles(own, own)) <= set(
        staying_prompts([INK, make_concept(own)])
    )
    nameless = make_concept("a painting")
    both = text_edit(tokens, by_kind([CAT, nameless]), settings, rest)
    assert torch.equal(both.values, text_edit(tokens, by_kind([CAT]), settings, rest).values)
    assert fits(INK) and not fits(nameless) and fits(make_concept("a painting", replace_with="a photo"))


def test_eta_is_bounded() -> None:
    """Far from the prompt the layers are not linear."""
    rest = staying()
    far, near = (text_edit(tokens, by_kind([CAT]), Settings(eta=eta), rest) for eta in (3.0, MOST_ETA))
    assert torch.equal(far.values, near.values) and not torch.equal(far.values, far.keys)


def test_an_attribute_becomes_the_prompt_without_its_words() -> None:
    """Keys and values take "man in a hat" for "man in a"; what does not name it is left alone."""
    rest = staying()
    found = text_edit(tokens, [ATTRIBUTE], Settings(), rest)
    same = text_edit(tokens, [make_concept("man in a hat", replace_with="man in a")], Settings(eta=0.0), rest)
    assert torch.equal(found.keys, found.values) and torch.equal(found.keys, same.keys)
    unnamed = make_concept("sunglasses", erase_from="man in a hat")
    both = text_edit(tokens, by_kind([CAT, unnamed]), Settings(), rest)
    assert torch.equal(both.values, text_edit(tokens, by_kind([CAT]), Settings(), rest).values)
    assert fits(CAT) and fits(ATTRIBUTE) and not fits(unnamed)
    assert settled([CAT, unnamed], Settings())[1].closed_form and not settled([unnamed], Settings())[1].closed_form
    bearded = make_concept("a hat", erase_from="a man with a beard")  # the article alone does not name it
    assert not bearded.silent_prompt and not fits(bearded) and not bearded.silent_prompts
    assert ATTRIBUTE.silent_prompts == ("man in a",) and "man in a" not in ATTRIBUTE.prompts
    assert without("a man in a red hat", "red hat") == "a man in a" and without("hat of red", "red hat") == "of"


def test_what_stays_never_says_the_concept() -> None:
    """Common words but the erased ones, the empty prompt, and what the user keeps."""
    found = staying_prompts([make_concept("dog"), make_concept("flat style"), ATTRIBUTE], ["my prompt"])
    words = {word for prompt in found for word in prompt.split()}
    assert found[:2] == ["", "my prompt"] and len(set(found)) == len(found) in range(40, 60)
    assert not {"dog", "hat"} & words and {"horse", "photo", "baroque"} < words
    assert not any({"flat", "style"} <= set(p.split()) for p in found) and "cat in modern style" not in found
    assert any(p.endswith("in baroque style") for p in found)
    siblings = staying_prompts([make_concept("a hat", erase_from="man in a hat")])
    assert "man in a person" in siblings and "man in a hat" not in siblings


def layers() -> nn.Module:
    """A key and a value layer."""
    torch.manual_seed(0)
    return nn.ModuleDict({"to_k": nn.Linear(WIDTH, 7, bias=False), "to_v": nn.Linear(WIDTH, 9, bias=True)})


@pytest.mark.parametrize("rank", [0, WIDTH, WIDTH + 3, 2])
def test_a_student_begins_with_the_edit(rank: int) -> None:
    """Exactly with whole weights and with rank enough, else with the nearest B of that rank; the layers stay."""
    network = layers()
    edit = text_edit(tokens, by_kind([CAT]), Settings(), staying())
    edits = {"to_k.weight": edit.keys, "to_v.weight": edit.values}
    before = {name: t.clone() for name, t in network.state_dict().items()}
    student = make_student(StudentPlan(tuple(edits), rank=rank), network)
    student.begin(edits, torch.float32)
    learnt = student.erasure("")
    for name, b in edits.items():
        u, s, vh = torch.linalg.svd(b)
        most = rank or len(s)
        wanted = before[name] @ (u[:, :most] * s[:most]) @ vh[:most]
        torch.testing.assert_close(learnt.change(name), wanted, rtol=1e-4, atol=1e-5)
    x = torch.randn(3, WIDTH)
    with student.attached(torch.float32), torch.no_grad():
        out = network["to_v"](x)
    torch.testing.assert_close(out - network["to_v"](x), x @ learnt.change("to_v.weight").mT, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_nothing_to_begin_with_leaves_the_student() -> None:
    """No edit, no change, to the bit."""
    for rank in (0, 4):
        student = make_student(StudentPlan(("to_k.weight",), rank=rank), layers())
        student.begin({}, torch.float32)
        assert not student.erasure("").change("to_k.weight").any()


@pytest.mark.parametrize("rank", [0, 4])
def test_a_student_begins_anew_as_it_was(rank: int) -> None:
    """With no change, and with another one, as if it had begun so."""
    plan, network = StudentPlan(("to_k.weight",), rank=rank), layers()
    edits = [
        {"to_k.weight": text_edit(tokens, by_kind(each), Settings(), staying()).keys} for each in ([CAT], [DOG], [])
    ]
    assert not edits[-1]["to_k.weight"].any()
    for last in edits[1:]:
        once, again = make_student(plan, network), make_student(plan, network)
        first = {name: t.detach().clone() for name, t in once.trainable.items()}
        once.begin(last, torch.float32)
        for each in (edits[0], last):
            again.begin(each, torch.float32)
        assert all(t.equal(once.trainable[name]) for name, t in again.trainable.items())
        assert all(t.equal(first[name]) for name, t in once.trainable.items()) == (last is edits[-1])


@pytest.mark.parametrize("closed_form", [True, False])
def test_what_is_left_is_looked_at_before_the_first_step(closed_form: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is enough takes no step; without one nothing is measured before the first."""
    monkeypatch.setattr("esd_pack.esd.until_gone.GONE", {"object": (2.0, 2.0)})
    monkeypatch.setattr("esd_pack.esd.until_gone.UNTRAINED", (2.0, 2.0))
    settings = Settings(
        steps=20, num_inference_steps=8, trajectory_batch=2, guidance_scale=1.0, closed_form=closed_form
    )
    concepts, chosen = settled([CAT], settings)
    denoiser = FakeDenoiser()
    run = Training(denoiser, FakeConditions(), concepts, [], replace(chosen, buffer_size=8))
    taken = len(list(run))
    assert run.is_gone and taken == (0 if closed_form else 10) and len(run.worst) == (1 if closed_form else 2)
    assert run.worst[0] == pytest.approx(1.0) and (run.snapshot() is None) == closed_form


def test_an_edit_is_of_the_texts_width() -> None:
    """Whatever the number of tokens."""
    edit = text_edit(tokens, [CAT], Settings(), staying())
    assert isinstance(edit, TextEdit) and edit.keys.shape == edit.values.shape == (WIDTH, WIDTH)
    assert edit.keys.dtype is torch.float32
