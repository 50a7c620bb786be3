"""Sample Set, Score and Compare Reports in the real host, and evaluations that were stopped, shared or split."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from support.graphs import Graph, slot

DRAWN = {"width": 64, "height": 64, "steps": 2, "cfg": 3.0}


class TaggerNode:
    """Another pack's node: says of each picture whether it is bright, in the kind that is asked for."""

    FUNCTION, RETURN_TYPES = "tag", ("STRING", "FLOAT", "BOOLEAN", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def tag(self, image):
        bright = image.mean() > 0.5
        mask = torch.full(image.shape[:3], float(bright))
        return ("bright_picture" if bright else "dark"), float(image.mean()), bool(bright), mask


@pytest.fixture
def kept(comfy_base):
    """The folder of what is kept, empty before and after."""
    folder = comfy_base / "output" / "esd" / "evaluations"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(comfy, node_classes, tiny):
    """The tiny MODEL, another one, and graphs that know the tagger."""
    other = tiny.model.clone()
    other.add_patches({"diffusion_model.out.2.bias": ("diff", (torch.full((4,), 0.5),))}, 1.0)

    def graph():
        made = Graph(comfy)
        made.classes["TestTagger"] = TaggerNode
        return made

    return SimpleNamespace(base=tiny.model, other=other, clip=tiny.clip, vae=tiny.vae, graph=graph)


def sampled(world, g, model, **inputs):
    prompts = g.add("ESDPromptSet", erased="cat -> bright picture\nfox -> dark", kept="dog -> dark")
    return g.add(
        "ESDSampleSet", model=g.give(model), clip=g.give(world.clip), vae=g.give(world.vae), prompts=prompts,
        **{**DRAWN, "samples": 2, "resume": False, **inputs},
    )  # fmt: skip


class TestSampleAndScore:
    """Another pack's node as the judge."""

    @pytest.mark.parametrize("kind", ["text", "number", "boolean", "mask"])
    def test_every_kind_of_answer(self, world, kind):
        g = world.graph()
        drawn = sampled(world, g, world.base)
        tags = g.add("TestTagger", image=drawn)
        place = ["text", "number", "boolean", "mask"].index(kind)
        score = g.add("ESDScore", rows=slot(drawn, 1), **{kind: slot(tags, place)}, name="base", words="/bright/")
        found = g.take(report=score, rows=slot(drawn, 1), erased=slot(score, 1)).run()
        report, (rows,) = found["report"], [found["rows"]]
        assert [s.seed for s in report.scores] == [shot.seed for shot in rows] == [0, 1, 2, 3, 4, 5]
        assert [s.role for s in report.scores] == ["erased"] * 4 + ["kept"] * 2
        assert report.judge.startswith(f"another node's {kind}") and {s.model for s in report.scores} == {"base"}
        assert found["erased"] == 100 * (1 - report.arms[0].rate("erased").share)

    def test_compare(self, world):
        g = world.graph()
        reports = []
        for name, model in (("base", world.base), ("other", world.other)):
            drawn = sampled(world, g, model)
            tags = g.add("TestTagger", image=drawn)
            reports.append(g.add("ESDScore", rows=slot(drawn, 1), number=slot(tags, 1), name=name))
        table = g.add("ESDCompareReports", report_1=reports[0], report_2=reports[1])
        found = g.take(report=table, picture=slot(table, 1), text=slot(table, 2)).run()
        assert [arm.name for arm in found["report"].arms] == ["base", "other"]
        assert [change.role for change in found["report"].arms[1].changes] == ["erased", "kept"]
        assert found["picture"].shape[3] == 3 and found["text"].startswith("base: erased ")

    def test_nothing_or_two_things_connected(self, world):
        g = world.graph()
        drawn = sampled(world, g, world.base)
        g.take(report=g.add("ESDScore", rows=slot(drawn, 1)))
        assert g.run().message.startswith("0 kinds of answers are connected")


def shots(world, lines="cat\nfox\ndog", samples=3, **choice):
    from esd_pack.esd.evaluate.prompt_set import prompt_set, rows_of_lines
    from esd_pack.nodes.host.images.sampling import SamplerChoice
    from esd_pack.nodes.host.images.shots import shots_of

    how = {**DRAWN, "sampler_name": "euler", "scheduler": "normal", **choice}
    return shots_of(prompt_set("", rows_of_lines(lines, "erased")), samples, SamplerChoice(0, **how))


class Looks:
    """A judge that counts what it is shown."""

    card, identity = "counts", "counts"

    def __init__(self):
        self.seen = 0

    def check(self, labels, sizes=()):
        """Fits all."""

    def ready(self, labels, draw):
        return self

    def judge(self, pictures, labels):
        from esd_pack.esd.evaluate.judge import best_of

        self.seen += len(pictures)
        return best_of(labels, torch.stack([pictures.mean((1, 2, 3)), *[torch.zeros(len(pictures))] * 2], dim=1))


class TestResume:
    """Nothing is lost, and nothing is made twice."""

    @pytest.fixture
    def run(self, world, kept, monkeypatch):
        """Evaluate with a new keeper, stopping after so many pictures or scores; counts what was drawn."""
        from esd_pack.nodes.host.files.kept_rows import KeptRows
        from esd_pack.nodes.host.images import evaluate, studio

        monkeypatch.setattr(studio, "BATCH", 1)

        def run(model=world.base, drawn=None, stop_at=None, judge=None, **more):
            done, real = [0], studio.draw_batch
            keeper, judge = KeptRows(), judge or Looks()

            def counted(model, vae, conditions, samples, *rest):
                made = real(model, vae, conditions, samples, *rest)
                if drawn is not None:
                    drawn.append((id(model), samples[0].prompt, samples[0].seed))
                return made

            def stopping(keep):
                def kept_then_stopped(*args):
                    keep(*args)
                    done[0] += 1
                    if done[0] == stop_at:
                        raise KeyboardInterrupt

                return kept_then_stopped

            monkeypatch.setattr(studio, "draw_batch", counted)
            keeper.keep_picture, keeper.keep_score = stopping(keeper.keep_picture), stopping(keeper.keep_score)
            try:
                return evaluate.evaluate(
                    world.base, model, world.clip, world.vae, shots(world, **more), ("cat", "fox", "dog"), judge,
                    keeper=keeper,
                )  # fmt: skip
            except KeyboardInterrupt:
                return None
            finally:
                monkeypatch.setattr(studio, "draw_batch", real)

        return run

    def test_stopped_at_every_row_each_picture_is_drawn_and_judged_once(self, world, run, kept):
        drawn, judge = [], Looks()
        stops, made = 0, None
        while made is None:
            made = run(world.other, drawn=drawn, stop_at=1, judge=judge, samples=2)
            stops += made is None
        assert len(drawn) == len(set(drawn)) == 2 * 6 and stops == 2 * 2 * 6
        shutil.rmtree(kept)
        whole = run(world.other, samples=2)
        assert made.scores == whole.scores
        for name, pictures in made.pictures.items():
            for ours, theirs in zip(pictures, whole.pictures[name], strict=True):
                assert torch.equal(ours.picture, theirs.picture)

    @pytest.mark.parametrize("stop_at", [3, 11, 17])
    def test_stopped_anywhere(self, world, run, stop_at):
        drawn = []
        assert run(world.other, drawn=drawn, stop_at=stop_at) is None
        assert run(world.other, drawn=drawn) and len(drawn) == len(set(drawn)) == 18

    def test_two_models_share_the_base_and_a_second_judge_the_pictures(self, world, run):
        drawn, second = [], Looks()
        run(world.base, drawn=drawn)
        assert len(drawn) == 9  # the base against itself
        run(world.other, drawn=drawn)
        assert len(drawn) == 18
        second.identity = "another"
        run(world.other, drawn=drawn, judge=second)
        assert len(drawn) == 18 and second.seen == 18

    @pytest.mark.parametrize("change", [{"steps": 3}, {"cfg": 2.0}, {"sampler_name": "ddim"}, {"width": 128}])
    def test_what_changes_pictures_draws_anew(self, world, run, change):
        drawn = []
        run(drawn=drawn, lines="cat", samples=1)
        run(drawn=drawn, lines="cat", samples=1, **change)
        assert len(drawn) == 2

    def test_a_broken_picture_is_drawn_again(self, world, run, kept):
        drawn = []
        run(drawn=drawn, lines="cat", samples=1)
        (path,) = kept.rglob("*.png")
        path.write_bytes(path.read_bytes()[:50])
        run(drawn=drawn, lines="cat", samples=1)
        assert len(drawn) == 2

    def test_shards_make_the_whole(self, world, comfy):
        from esd_pack.esd.errors import EsdError
        from esd_pack.nodes.host.images.shots import shard

        whole = shots(world)
        parts = [shard(whole, number, 4) for number in range(1, 5)]
        assert sorted((s for part in parts for s in part), key=whole.index) == whole
        for number, count, words in ((5, 4, "There is no shard 5 of 4"), (10, 10, "Shard 10 of 10 is empty")):
            with pytest.raises(EsdError, match=words):
                shard(whole, number, count)


class TestFingerprints:
    """What draws equal pictures has one, and only that."""

    def test_clones_are_equal_and_changes_are_not(self, world, load_extra):
        from esd_pack.nodes.host.model.fingerprint import digest_of_model
        from esd_pack.nodes.host.model.safety_guidance import with_safety_guidance

        plain = digest_of_model(world.base)
        assert plain and digest_of_model(world.base.clone()) == plain != digest_of_model(world.other)
        pairs = (("cat", "max"), ("cat", "weak"), ("dog", "max"), ("cat", "max"))
        guided = [with_safety_guidance(world.base, world.clip, concept, strength) for concept, strength in pairs]
        found = [digest_of_model(model) for model in guided]
        assert found[0] == found[3] and len({plain, *found}) == 4
        unknown = world.base.clone()
        thing = object()
        unknown.set_model_sampler_post_cfg_function(lambda args: thing and args["denoised"])
        assert digest_of_model(unknown) == ""

    def test_perp_neg_and_a_schedule(self, comfy, world, load_extra):
        from esd_pack.nodes.host.model.fingerprint import digest_of_model

        load_extra("nodes_perpneg")
        load_extra("nodes_model_advanced")
        empty = world.clip.encode_from_tokens_scheduled("")
        perp = comfy.NODE_CLASS_MAPPINGS["PerpNeg"].execute
        found = [digest_of_model(perp(world.base, empty, scale).args[0]) for scale in (1.0, 1.0, 2.0)]
        assert found[0] and found[0] == found[1] != found[2]
        (shifted,) = comfy.NODE_CLASS_MAPPINGS["ModelSamplingDiscrete"]().patch(world.base, "v_prediction", False)
        assert digest_of_model(shifted) not in ("", digest_of_model(world.base))
