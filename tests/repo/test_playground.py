"""The judge and the names of the playground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands.playground import tasks, world
from commands.playground.judge import found_rate, load_judge, rates
from lab.launch import demo
from lab.playground.recipe.judges import SecondJudge

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
SECOND_JUDGE = ROOT / "lab" / "playground" / "second_judge.safetensors"


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """The 48 pictures of drawn-by-the-host.png, "b 64 64 3", in 0..1: six rows of eight."""
    sheet = Image.open(ROOT / "lab" / "playground" / "drawn-by-the-host.png").resize((512, 384), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(sheet)).float() / 255
    return pixels.reshape(6, 64, 8, 64, 3).transpose(1, 2).reshape(48, 64, 64, 3)


def test_the_judge_names_what_the_host_drew(drawn: torch.Tensor) -> None:
    """Objects, styles and backgrounds, each row by its prompt; both layouts of a batch."""
    verdict = load_judge().judge(drawn)
    rows = ["cat", "cat", "dog", "face wearing a cowboy hat", "rocket", "ghost"]
    assert verdict.objects == [name for name in rows for _ in range(8)]
    assert verdict.styles[8:40] == ["ink"] * 8 + ["noto"] * 8 + ["fluent"] * 8 + ["sepia"] * 8
    assert verdict.backgrounds[16:24] == ["blue"] * 8
    assert load_judge().judge(drawn.permute(0, 3, 1, 2)) == verdict
    expected = [world.Judged(name, "object", name, name) for name in rows for _ in range(8)]
    assert rates(verdict, expected)["cat"] == (16, 16) and found_rate(verdict, expected) == 1.0


def test_the_second_judge_agrees(drawn: torch.Tensor) -> None:
    """Another network from another seed, which only checks the first: to it one of the 16 cats wears glasses."""
    second = SecondJudge(world.HEADS).load(SECOND_JUDGE).judge(drawn)
    first = load_judge().judge(drawn)
    assert sum(a == b for a, b in zip(second.objects, first.objects, strict=True)) >= 47  # of 48
    assert second.styles[8:40] == first.styles[8:40] and second.backgrounds[16:24] == ["blue"] * 8


def test_the_judge_refuses_other_sizes() -> None:
    """Rather than judge what it was not made for."""
    with pytest.raises(ValueError, match="64 x 64"):
        load_judge().judge(torch.zeros(1, 32, 32, 3))


def test_prompts_of_the_world() -> None:
    """Objects, styles and backgrounds are found by their words; others are refused with the list."""
    assert world.find_subject(" ink  style") == world.Subject("style", "ink") == world.find_subject("ink")
    assert world.find_subject("face wearing a halo").head == "object"
    with pytest.raises(ValueError, match='does not draw "unicorn"'):
        world.find_subject("unicorn")
    assert world.object_prompt("cat", "ink", "blue") == "cat in ink style on a blue background"
    assert [j.prompt for j in world.prompts_for(world.find_subject("cat"), 2)] == ["cat", "cat"]
    assert len(world.prompts_for_others(world.find_subject("cat"))) == 158
    ink = world.prompts_for_others(world.find_subject("ink style"))
    assert len(ink) == 156 and "ink" not in {judged.name for judged in ink}


def test_near_neighbours_are_objects() -> None:
    """Every name in the table is one of the world, no object is its own, and the famous ones are there."""
    assert world.NEAR_NEIGHBOURS.keys() == set(world.OBJECTS) and world.NEAR_NEIGHBOURS["cat"] == ("tiger", "lion")
    assert {near for names in world.NEAR_NEIGHBOURS.values() for near in names} <= set(world.OBJECTS)
    assert not any(name in near for name, near in world.NEAR_NEIGHBOURS.items())


def test_rates_by_head(drawn: torch.Tensor) -> None:
    """An erased style is judged by the style, the others by theirs, and the objects are counted too."""
    verdict = load_judge().judge(drawn[8:24])  # cat in ink style, dog in noto style
    groups = {
        "erased": [world.Judged("ink style", "style", "ink")] * 4,
        "unseen": [world.Judged("cat in ink style", "style", "ink", "cat")] * 4,
        "kept": [world.Judged("cat in noto style", "style", "noto", "cat")] * 8,
    }
    found = demo.rates(groups, [verdict, verdict])
    assert (found.erased, found.unseen, found.kept) == (demo.Rate(1, 1, 4), demo.Rate(1, 1, 4), demo.Rate(1, 1, 8))
    assert found.objects == demo.Rate(4 / 12, 4 / 12, 12) and not found.each


def test_tasks_of_the_playground() -> None:
    """A concept, an attribute of an object, and what is judged for several at once."""
    glasses = tasks.erased_from(" sunglasses", "face wearing sunglasses")
    assert glasses.inputs == {"concept": "sunglasses", "erase_from": "face wearing sunglasses"}
    with pytest.raises(ValueError, match="is not part of"):
        tasks.erased_from("halo", "cat")
    two = [tasks.find_task("cat"), tasks.find_task("ink style")]
    assert [j.prompt for j in tasks.own_prompts(two, 4)] == ["cat", "cat", "ink style", "ink style"]
    unseen = [j.prompt for j in tasks.unseen_prompts([*two, glasses], 6)]
    assert len(set(unseen)) == 6 and "a picture of a cat" in unseen and not {"cat", "ink style"} & set(unseen)
    others = tasks.prompts_for_others(two)
    assert {j.head for j in others} == {"object", "style"} and not {"cat", "ink"} & {j.name for j in others}
