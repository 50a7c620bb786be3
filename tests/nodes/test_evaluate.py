"""Evaluate in the real host: a trained erasure, a judge by network and one by likelihood, files, noise, refusals."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from support.graphs import Graph, slot
from support.paths import ROOT

ERASURE = ROOT / "workflows" / "models" / "emoji-world-cat-esd-x.pt"
SIZE = {"width": 64, "height": 64, "steps": 8, "cfg": 3.0}
LINKS = ("report", "picture", "erased", "kept", "text")


@pytest.fixture(scope="module")
def world(comfy, node_classes, playground):
    """The playground, and the cat's erasure that is shipped for it."""
    from esd_pack.nodes.host.files.published import load
    from esd_pack.nodes.host.model.apply import apply

    model, clip, vae = playground
    erased = apply(model, load(ERASURE, model, "auto", None, None).weights, 1.0)
    return SimpleNamespace(model=model, erased=erased, clip=clip, vae=vae, graph=lambda: Graph(comfy))


def evaluated(world, erased="cat", kept="", alternatives="", judge="ESDJudgePlayground", model=None, **inputs):
    g = world.graph()
    parts = {"clip": g.give(world.clip), "vae": g.give(world.vae)}
    base = g.give(world.model)
    judge = g.add(judge, **({"base_model": base, **parts} if judge == "ESDJudgeBaseModel" else {}))
    prompts = g.add("ESDPromptSet", erased=erased, kept=kept, alternatives=alternatives)
    node = g.add(
        "ESDEvaluate", model=g.give(world.erased if model is None else model), base_model=base, prompts=prompts,
        judge=judge, **parts, **{**SIZE, "in_model": False, "file_name": "", "resume": False, **inputs},
    )  # fmt: skip
    return g.take(**{name: slot(node, i) for i, name in enumerate(LINKS)}).run()


@pytest.fixture(scope="module")
def by_network(world):
    return evaluated(
        world, "cat\ncat in ink style -> cat", "dog\nkey", samples=3, in_model=True, file_name="esd/evaluation"
    )


@pytest.fixture(scope="module")
def by_likelihood(world):
    return evaluated(world, "cat", "dog", "key\nrocket", judge="ESDJudgeBaseModel", samples=3)


class TestFoundRates:
    """What a trained erasure does to the pictures."""

    def test_the_cat_is_gone_and_the_rest_is_there(self, by_network):
        erased, kept = by_network["report"].changes
        assert (erased.before.found, erased.before.n) == (6, 6) and erased.after.found == 0
        assert kept.before.found == 6 and kept.after.found >= 5 and kept.after.n == 6
        assert by_network["erased"] == 100 * (1 - erased.after.share) and by_network["kept"] == 100 * kept.after.share
        assert erased.p_value == 2 / 2**6 and kept.p_value == 1

    def test_the_base_judges_its_own_pictures_as_the_network_does(self, by_likelihood):
        erased, kept = by_likelihood["report"].changes
        assert erased.before.found == 3 and erased.after.found == 0
        assert kept.before.found == 3 and kept.after.found >= 2
        before, after = by_likelihood["report"].scores[0], by_likelihood["report"].scores[6]
        assert before.answer == "cat" and before.score > 0.05 > after.score and after.answer != "cat"

    def test_inside_the_model(self, by_network):
        concepts, keeps = by_network["report"].concepts, by_network["report"].keeps
        assert [each.prompt for each in concepts] == ["cat", "cat in ink style"] and concepts[0].residual < 0.2
        assert [each.prompt for each in keeps] == ["dog", "key"] and min(k.residual for k in keeps) > 0.4

    def test_the_base_against_itself(self, world):
        found = evaluated(world, "cat", model=world.model, samples=2, steps=3)
        (erased,) = found["report"].changes
        assert erased.before == erased.after and erased.p_value == 1 and math.isnan(found["kept"])
        scores = found["report"].scores
        assert [replace(s, model="") for s in scores[:2]] == [replace(s, model="") for s in scores[2:]]


class TestReport:
    """What is shown and written."""

    def test_files(self, by_network, comfy_base):
        name = re.search(r"Saved (\S+)\.html, .json, .csv and .blind.html", by_network["text"])[1]
        folder = comfy_base / "output" / "esd"
        data = json.loads((folder / f"{name}.json").read_text("utf-8"))
        assert data["changes"][0]["before"]["found"] == 6 and data["judge"].startswith("the playground's judge")
        assert len((folder / f"{name}.csv").read_text("utf-8").splitlines()) == 1 + 2 * 12
        page = (folder / f"{name}.html").read_text("utf-8")
        assert page.count("data:image/jpeg;base64,") == 2 * (6 + 6) and "6 of 6 (100 %" in page
        sheet = (folder / f"{name}.blind.html").read_text("utf-8")
        assert sheet.count("data:image/jpeg;base64,") == 2 * 12 and "Which picture shows: cat?" in sheet

    def test_the_picture_has_bars_residuals_and_pairs(self, by_network, by_likelihood):
        assert by_network["picture"].shape[0] == 1 and by_network["picture"].shape[1] > 900
        assert by_likelihood["picture"].shape[1] < by_network["picture"].shape[1]
        assert 0 <= by_network["picture"].min() and by_network["picture"].max() <= 1

    def test_no_name_writes_nothing(self, world, comfy_base):
        before = set(comfy_base.rglob("output/**/*"))
        found = evaluated(world, "cat", steps=1)
        assert set(comfy_base.rglob("output/**/*")) == before and "Saved" not in found["text"]

    def test_equal_inputs_give_equal_reports(self, world):
        first, second = (evaluated(world, "cat", steps=1)["report"] for _ in range(2))
        assert first == second and first != evaluated(world, "cat", steps=1, seed=3)["report"]

    def test_both_models_stay_as_they_were(self, world, by_network, by_likelihood):
        assert world.model.patches == {} and world.model.model_options == {"transformer_options": {}}


@pytest.mark.full
class TestCancel:
    """Stopped in the middle."""

    @pytest.mark.parametrize(
        "judge", ["ESDJudgePlayground", pytest.param("ESDJudgeBaseModel", marks=pytest.mark.nightly)]
    )
    def test_it_stops_and_the_next_run_is_as_ever(self, world, monkeypatch, comfy_base, judge):
        """At half of the looks at the host's flag, and at one of Evaluate's last: in a step, or as the base judges."""
        import comfy.model_management

        looks: list[int] = []

        def run(stop_at=0, **inputs):
            looks.clear()

            def look():
                looks.append(1)
                if len(looks) == stop_at:
                    raise comfy.model_management.InterruptProcessingException

            with monkeypatch.context() as patched:
                patched.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", look)
                return evaluated(world, "cat", "dog", judge=judge, steps=2, **inputs)

        wanted, before = run()["report"], set(comfy_base.rglob("output/**/evaluation*"))
        count = len(looks)
        for stop_at in (count // 2, count - len(LINKS) - 2):  # the host looks once more before each node that takes
            assert run(stop_at, file_name="esd/evaluation").ending == "execution_interrupted"
            assert len(looks) == stop_at and set(comfy_base.rglob("output/**/evaluation*")) == before
        assert run()["report"] == wanted


class TestNoise:
    """Each picture's noise is its own."""

    @pytest.fixture(scope="class")
    def drawn(self, world):
        from esd_pack.esd.evaluate.prompt_set import prompt_set, rows_of_lines
        from esd_pack.nodes.host.images import evaluate, judges
        from esd_pack.nodes.host.images.sampling import SamplerChoice
        from esd_pack.nodes.host.images.shots import shots_of

        def draw(lines, seed=7, samples=1, **choice):
            prompts = prompt_set("", rows_of_lines(lines, "erased"))
            how = SamplerChoice(seed, **{**SIZE, "steps": 2, "sampler_name": "euler", "scheduler": "normal", **choice})
            shots = shots_of(prompts, samples, how)
            judge = judges.playground_judge()
            made = evaluate.evaluate(world.model, world.erased, world.clip, world.vae, shots, prompts.labels, judge)
            return {k.score.seed: k.picture.float() / 255 for k in made.pictures["base"]}, made

        return draw

    @pytest.mark.parametrize(
        "sampler", [*(pytest.param(n, marks=pytest.mark.nightly) for n in ("euler", "dpmpp_sde")), "euler_ancestral"]
    )
    def test_company_changes_no_picture(self, drawn, sampler):
        many, _ = drawn("dog\nkey", sampler_name=sampler)
        alone, _ = drawn("key", seed=8, sampler_name=sampler)
        assert list(many) == [7, 8] and (many[8] - alone[8]).abs().max() < 0.02
        assert (many[7] - alone[8]).abs().max() > 0.2

    def test_both_models_start_from_one_noise(self, world, drawn):
        from esd_pack.nodes.host.images.evaluate import ERASED_MODEL

        _, made = drawn("cat\nkey", samples=2)
        assert [k.score.seed for k in made.pictures[ERASED_MODEL]] == [7, 8, 9, 10]
        assert [s.pair for s in made.scores["base"]] == [s.pair for s in made.scores[ERASED_MODEL]]

    def test_the_picture_is_ksampler_s(self, comfy, world, drawn):
        (mine, _), clip = drawn("cat", seed=5), world.clip
        told = [clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("cat", "")]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        (stock,) = comfy.common_ksampler(world.model, 5, 2, 3.0, "euler", "normal", *told, latent)
        assert (world.vae.decode(stock["samples"])[0] - mine[5]).abs().max() < 0.01

    def test_rows_keep_their_own_seed_guidance_and_size(self, comfy):
        from esd_pack.esd.evaluate.prompt_set import prompt_set, rows_of_csv
        from esd_pack.nodes.host.images.sampling import SamplerChoice
        from esd_pack.nodes.host.images.shots import shots_of

        data = b"prompt,seed,guidance,width,samples\na,18446744073709551615,7,512,2\nb,,,,\nc,,,,\n"
        shots = shots_of(prompt_set("", rows_of_csv(data, "x")), 1, SamplerChoice(5, 20, 3.0, "e", "n", 64, 64))
        assert [shot.seed for shot in shots] == [2**64 - 1, 0, 5, 6]
        assert [(s.choice.cfg, s.choice.width, s.choice.height) for s in shots] == [(7, 512, 64)] * 2 + [
            (3, 64, 64)
        ] * 2


class TestPromptFiles:
    """Sets out of the input folder."""

    def gathered(self, world, **inputs):
        g = world.graph()
        return g.take(prompts=g.add("ESDPromptSet", **inputs)).run()

    def test_a_file_beside_lines(self, world, comfy_base):
        (comfy_base / "input" / "set.csv").write_bytes(b"prompt,artist,evaluation_seed\na,X,4290749014\nb,Y,2\n")
        found = self.gathered(world, file="set.csv", erased="cat", file_role="kept", label_contains="x")["prompts"]
        assert [(r.prompt, r.role, r.label, r.seed) for r in found.rows] == [
            ("cat", "erased", "cat", None),
            ("a", "kept", "X", 4290749014),
        ]
        assert found.name == "set.csv"

    @pytest.mark.parametrize("name", ["../secret.csv", "gone.csv", "/etc/passwd"])
    def test_what_is_not_listed(self, comfy, comfy_base, name):
        from esd_pack.esd.errors import EsdError
        from esd_pack.nodes.host.files.evaluation import fingerprint, prompt_rows

        (comfy_base / "secret.csv").write_text("prompt\nx\n")
        for ask in (fingerprint, lambda n: prompt_rows(n, "erased")):
            with pytest.raises(EsdError, match="put the CSV file into the input folder"):
                ask(name)

    def test_a_bad_row_is_named(self, world, comfy_base):
        (comfy_base / "input" / "bad.csv").write_bytes(b"prompt,seed\na,x\n")
        assert self.gathered(world, file="bad.csv").message.startswith('Row 1, column "seed" is "x"')

    def test_nothing_at_all(self, world):
        assert self.gathered(world).message.startswith("The prompt set has nothing to draw")


class TestRefusals:
    """One sentence, before anything is drawn."""

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"erased": "zebra"}, 'The playground\'s judge does not know "zebra"'),
            ({"file_name": "../x"}, 'The file name "../x" leaves the output folder'),
            ({"width": 128}, "The playground's judge looks at pictures of 64 x 64, not 128 x 64"),
        ],
    )
    def test_it_says_why(self, world, inputs, message):
        assert evaluated(world, **{"steps": 1, **inputs}).message.startswith(message)

    def test_a_guided_model_is_judged_but_not_measured(self, world):
        g = world.graph()
        node = g.add(
            "ESDSafeLatentDiffusion", model=g.give(world.model), clip=g.give(world.clip), concept="cat", strength="max"
        )
        guided = g.take(model=node).run()["model"]
        found = evaluated(world, "cat", model=guided, in_model=True, steps=4)
        assert found["report"].concepts == () and len(found["report"].scores) == 2
        h = world.graph()
        measure = h.add(
            "ESDMeasure", model=h.give(guided), base_model=h.give(world.model), clip=h.give(world.clip),
            concepts=h.add("ESDConcept", concept="cat"),
        )  # fmt: skip
        assert h.take(report=measure).run().message.startswith("This MODEL is guided while it samples")
