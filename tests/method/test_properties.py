"""Properties of every public function of the method, on inputs of every kind: right, or refused in one sentence."""

from __future__ import annotations

import ast
import io
import json
import math
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import save

from esd_pack.esd import (
    closed_form,
    concepts,
    contexts,
    denoiser,
    drawn,
    drift,
    erasure,
    errors,
    examples,
    first_names,
    merge,
    merge_by_prompts,
    metadata,
    objective,
    optimizers,
    passes,
    presets,
    published,
    random_streams,
    report,
    residual,
    robust,
    selection,
    slots,
    snapshot,
    step_plan,
    step_size,
    students,
    train,
    trajectory,
    until_gone,
)
from esd_pack.esd import safe_latent_diffusion as sld
from esd_pack.esd import settings as runs
from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate import (
    attack,
    compare,
    foreign,
    judge,
    likelihood,
    metrics,
    page,
    prompt_set,
    prototypes,
    statistics,
    study,
    zero_shot,
)
from esd_pack.esd.evaluate import report as evaluation_report
from esd_pack.esd.files import atomic, lazy, lazy_tensor, pickle_scan, safetensors_header, safetensors_write, torch_zip
from esd_pack.esd.formats import detect, difference, diffusers, load, lora, official
from esd_pack.esd.formats import network as networks
from support.erasure_files import SHAPES, network
from support.fakes import WIDTH, FakeConditions, FakeDenoiser, TokenConditions, TokenDenoiser, told
from support.odd_values import (
    COUNTED,
    FIELDS,
    JSON,
    NUMBERS,
    SHAPE,
    SIZES,
    TEXTS,
    examples_of,
    outcome,
    tensors,
    tensors_of,
)
from support.outcomes import record

ROOT = Path(__file__).resolve().parents[2]


class TestConcepts:
    """What a user types."""

    @examples_of(150)
    @given(TEXTS, TEXTS, TEXTS, NUMBERS)
    def test_a_concept(self, erase, erase_from, replace_with, weight):
        made = outcome(lambda: concepts.make_concept(erase, erase_from, replace_with, weight))
        if made is not None:
            assert made.erase == erase.strip() != "" and 0 < made.weight < math.inf
            assert {made.student_prompt, made.anchor_prompt, made.erase, ""} == set(made.prompts)
            assert made.student_prompt != made.replace_with
            json.dumps([made.erase, made.erase_from, made.replace_with]).encode()
            "".join(made.prompts).encode()

    @examples_of(100)
    @given(st.lists(TEXTS, max_size=4).map("\n".join), NUMBERS)
    def test_a_keep(self, text, weight):
        made = outcome(lambda: concepts.make_keep(text, weight))
        if made is not None:
            assert made.prompts and all(p == p.strip() != "" for p in made.prompts) and 0 <= made.weight < math.inf
            assert len(set(made.prompts)) == len(made.prompts)
            words = concepts.prompts_of([concepts.Concept("x")], [made])
            assert words[:2] == ["", "x"] and set(made.prompts) <= set(words) and len(set(words)) == len(words)

    @examples_of(40)
    @given(st.text())
    def test_an_error_is_one_printable_line(self, words):
        assert str(errors.EsdError(words)).isprintable()
        assert errors.EsdError("The x is 1: make it 2.").args == ("The x is 1: make it 2.",)


class TestSettings:
    """The settings of a run."""

    @examples_of(250)
    @given(st.sampled_from(sorted(FIELDS)), NUMBERS | TEXTS)
    def test_one_field(self, name, value):
        assume(isinstance(value, str) == isinstance(FIELDS[name], str))
        made = outcome(lambda: runs.check(replace(runs.Settings(), **{name: value})))
        if made is not None and runs.FIELDS[name].low is not None:
            low, high = runs.FIELDS[name].low, runs.FIELDS[name].high
            assert low <= value <= high
            assert (
                made.examples == made.steps * made.batch_size * made.gradient_accumulation_steps
                and made.examples_per_buffer > 0
            )

    @examples_of(20)
    @given(st.dictionaries(st.sampled_from(sorted(runs.FIELDS)), st.integers(), max_size=5))
    def test_first_and_present_names(self, some):
        stored = first_names.by_first_name(some)
        assert first_names.by_present_name(stored) == some == first_names.by_present_name(some)
        assert first_names.by_present_name(first_names.by_first_name(vars(runs.Settings()))) == vars(runs.Settings())

    @examples_of(40)
    @given(TEXTS | st.sampled_from(sorted(presets.PRESETS)))
    def test_a_preset(self, name):
        made = outcome(lambda: presets.with_preset(runs.Settings(seed=7), name))
        assert made is None or (runs.check(made) is made and made.seed == 7)
        assert (made is None) == (name not in ("custom", *presets.PRESETS))

    @examples_of(80)
    @given(
        TEXTS | st.sampled_from(sorted(selection.METHODS)), st.lists(st.sampled_from(sorted(SHAPES)) | TEXTS), st.data()
    )
    def test_a_selection(self, method, names, data):
        kinds = [data.draw(st.sampled_from(("linear", "conv", "other"))) for _ in names]
        found = [selection.ParameterInfo(name, kind) for name, kind in zip(names, kinds, strict=True)]
        layer_names = data.draw(
            st.sampled_from((selection.UNET, selection.SDXL_UNET, selection.LayerNames(methods=("esd-x",))))
        )
        chosen = outcome(lambda: selection.select(method, found, layer_names))
        assert chosen is None or (chosen and [n for n in names if n in chosen][: len(chosen)] is not None)
        if chosen is not None and method == "full":
            assert chosen == names
        if chosen is not None:
            assert selection.row_slices(method, found, layer_names) == {}

    @examples_of(30)
    @given(st.integers(0, 3), st.integers(0, 2), st.integers(1, 4), st.integers(0, 2**63 - 1))
    def test_a_student(self, rank, first, rows, seed):
        network = torch.nn.Sequential(torch.nn.Linear(3, 6)).requires_grad_(False)
        plan = students.StudentPlan(("0.weight",), (("0.weight", (first, first + rows)),), rank, seed)
        made = students.make_student(plan, network)
        assert [tuple(p.shape) for p in made.trainable.values()] == students.parameter_shapes(
            plan, {"0.weight": (6, 3)}
        )
        learnt = made.erasure("net.")
        assert learnt.names == ["net.0.weight"] and not learnt.change("net.0.weight").any()
        assert len(erasure.lora_tensors(learnt)) == (3 if rank else 1)


def runs_of(**fields):
    return runs.Settings(
        **{
            "steps": 1,
            "num_inference_steps": 3,
            "samples_per_trajectory": 2,
            "trajectory_batch": 2,
            "buffer_size": 3,
            **fields,
        }
    )


class TestTraining:
    """The loop on a network of two matrices."""

    @examples_of(60)
    @given(
        steps=st.integers(0, 3),
        eta=NUMBERS,
        learning_rate=NUMBERS,
        grid=st.integers(1, 5),
        per_walk=st.integers(1, 7),
        batch=st.integers(1, 3),
        refresh=st.integers(0, 5),
        weight=st.sampled_from((0.0, 1.0, 1e300)),
        choice=st.tuples(st.sampled_from(("base", "student")), st.booleans(), st.sampled_from(("adamw", "adafactor"))),
        seed=st.sampled_from((0, 1, 2**64 - 1)),
    )
    def test_a_run(self, steps, eta, learning_rate, grid, per_walk, batch, refresh, weight, choice, seed):
        made = runs.Settings(
            steps=steps,
            eta=eta,
            learning_rate=learning_rate,
            num_inference_steps=grid,
            samples_per_trajectory=per_walk,
            batch_size=batch,
            draws_per_buffer=refresh,
            buffer_size=3,
            seed=seed,
            trajectory_batch=2,
            sampler_model=choice[0],
            strided=choice[1],
            optimizer=choice[2],
        )
        keeps = [concepts.make_keep("dog\nsky", weight)]
        fake, heard = FakeDenoiser(), []

        def whole():
            runs.check(made)
            return train.erase(
                fake, FakeConditions(), [concepts.make_concept("cat", "pet")], made, keeps, on_step=heard.append
            ).losses

        losses = outcome(whole)
        if losses is not None:
            assert len(losses) == len(heard) == steps and all(map(math.isfinite, losses))
            assert [step.index for step in heard] == list(range(steps)) and heard[0].prompt == "pet"

    @examples_of(15)
    @given(st.integers(0, 3), st.integers(0, 3))
    def test_batches_of_given_examples(self, steps, micro):
        assume(micro)
        fake = FakeDenoiser()
        point = examples.Example(torch.ones(2, 4, 4), 1.0, "cat", torch.zeros(2, 4, 4))
        assert len(train.fit(fake, FakeConditions(), [[[point]] * micro] * steps, runs_of())) == steps

    def test_gradients_streams_and_draws(self):
        fake, made = FakeDenoiser(), runs_of(batch_size=2, gradient_accumulation_steps=3)
        pools = train.make_streams(
            fake, FakeConditions(), [concepts.make_concept("cat")], [concepts.make_keep("dog", 2.0)], made
        )
        micro = train.next_micro_batches(pools, made)
        assert [len(batch) for batch in micro] == [4, 4, 4]
        optimizer = optimizers.make_optimizer(made.optimizer, list(fake.trainable.values()), made.learning_rate)
        assert math.isfinite(train.accumulate_gradients(fake, FakeConditions(), optimizer, micro, 0))
        assert math.isfinite(train.backward(fake, FakeConditions(), micro[0], 0.5))

    @examples_of(40)
    @given(NUMBERS, NUMBERS, st.sampled_from(sorted(objective.ETA_OFFSET)), st.booleans())
    def test_the_target_and_eta(self, eta, guidance, era, erase_from):
        a, e, n = torch.randn((3, 2, 2, 4, 4), generator=torch.Generator().manual_seed(0))
        assume(abs(eta) < 1e30 and abs(guidance) < 1e30)
        eta, guidance = float(eta), float(guidance)
        assert torch.allclose(objective.target(a, n, n, eta), a)
        assert torch.equal(objective.target(a, e, n, 0.0), a)
        assert float(objective.loss(a, a)) == 0 and float(objective.loss(a, e, torch.zeros(2))) == 0
        back = objective.eta_from_negative_guidance(guidance, era, erase_from) + objective.ETA_OFFSET[era]
        assert erase_from or back == pytest.approx(guidance, rel=1e-6, abs=1)

    @examples_of(30)
    @given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
    def test_conditions_that_may_not_repeat_go_apart_and_come_back_in_order(self, lengths):
        told = [denoiser.Condition({"t": torch.ones(1, n, 2)}, {"n": n}, repeatable=False) for n in lengths]
        made = denoiser.batched(told)
        assert len(made.calls) == len(set(lengths)) and sorted(r for rows, _ in made.calls for r in rows) == list(
            range(len(lengths))
        )
        echo = types.SimpleNamespace(predict=lambda x, sigma, condition: x * condition.constants["n"])
        x = torch.arange(len(lengths)).float()[:, None]
        answered = denoiser.predict(echo, x, x[:, 0], made)
        assert torch.equal(answered, x * torch.tensor(lengths)[:, None])

    @examples_of(40)
    @given(st.lists(st.integers(1, 9) | st.sampled_from((77, 154, 997, 1009)), min_size=1, max_size=4))
    def test_conditions_of_any_length_stack(self, lengths):
        made = outcome(lambda: denoiser.stack([denoiser.Condition({"t": torch.ones(1, n, 2)}) for n in lengths]))
        assert (made is None) == (math.lcm(*lengths) > denoiser.MOST_TOKENS)
        if made is not None:
            assert made.tensors["t"].shape == (len(lengths), math.lcm(*lengths), 2)
            assert len(denoiser.same_length([torch.ones(1, n) for n in lengths])) == len(lengths)

    @examples_of(60)
    @given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**63 - 1), st.booleans())
    def test_routes(self, walks, per_walk, grid, seed, coarse):
        per_walk = min(per_walk, grid)
        plan = step_plan.strided_grid if coarse else step_plan.full_grid
        route = plan(walks, per_walk, grid, torch.Generator().manual_seed(seed))
        assert route.levels.shape == route.keep_mask.shape and (route.levels.diff(dim=0) >= 0).all()
        assert 0 <= int(route.levels.min()) and int(route.levels.max()) < grid
        assert (route.keep_mask.sum(dim=0) == per_walk).all() and not route.levels[0].any()

    @examples_of(25)
    @given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 20), st.booleans())
    def test_a_walk_and_its_harvest(self, walks, grid, guidance, student):
        fake = FakeDenoiser()
        noise = torch.randn((walks, 2, 4, 4), generator=torch.Generator().manual_seed(walks))
        sigmas = fake.sigmas(grid)
        levels = list(
            trajectory.cfg_trajectory(
                fake, noise, told(""), [told("cat")] * walks, sigmas[:-1, None].expand(-1, walks), guidance
            )
        )
        assert [level.index for level in levels] == list(range(grid))
        one = trajectory.euler_step(fake, levels[0].uncond, levels[0].x, levels[0].sigma, levels[0].sigma)
        assert torch.equal(one, levels[0].x), "no way, no change"
        specs = [examples.target_spec(concepts.make_concept("cat"), runs_of())] * walks
        route = step_plan.full_grid(walks, grid, grid, torch.Generator().manual_seed(0))
        made = runs_of(guidance_scale=guidance, sampler_model="student" if student else "base")
        points = examples.collect_examples(fake, FakeConditions(), specs, noise, route, sigmas, made)
        assert len(points) == walks * grid and all(p.x.shape == p.target.shape == (2, 4, 4) for p in points)
        again = examples.complete_targets(fake, FakeConditions(), levels[0], dict(enumerate(specs)), True)
        if not student:
            assert torch.allclose(again[0].target, points[0].target, atol=1e-4)
        single = published.published_step(fake, FakeConditions(), specs[0], made, torch.Generator().manual_seed(walks))
        assert single.x.shape == single.target.shape == (2, 4, 4) and single.prompt == "cat"
        assert examples.keep_specs([concepts.Keep(("a", "b"), 0.0)]) == []

    @examples_of(15)
    @given(st.integers(1, 12), st.floats(0, 20), st.integers(0, 2**64 - 1))
    def test_what_is_left_in_the_untouched_model_is_all(self, grid, guidance, seed):
        fake, made = FakeDenoiser(), runs_of(num_inference_steps=grid, guidance_scale=guidance, seed=seed)
        specs = [examples.target_spec(concepts.make_concept("cat"), runs_of())]
        generator = random_streams.stream_generator(seed, random_streams.MEASURING)
        (points,) = residual.hold_out(fake, FakeConditions(), specs, made, generator)
        found = residual.signed_residual(fake, FakeConditions(), points)
        (levels,) = residual.signed_residuals(fake, FakeConditions(), [points])
        assert residual.residuals_and_drifts(fake, FakeConditions(), [points])[0][1] == pytest.approx(0, abs=1e-5)
        assert abs(found - 1) < 1e-3 and residual.percent_left(found) == 100 and len(levels) == len(points.x)

    @examples_of(30)
    @given(TEXTS, TEXTS, TEXTS, st.sampled_from((*contexts.KINDS, "auto")), TEXTS, TEXTS)
    def test_contexts_hold_the_concept(self, erase, erase_from, replace, kind, said, carriers):
        made = outcome(lambda: concepts.make_concept(erase, erase_from, replace))
        rules = outcome(lambda: contexts.make_rules(kind, said, carriers))
        if made is None or rules is None:
            return
        assert contexts.kind_of(made) in contexts.KINDS
        (found,) = contexts.by_kind([contexts.with_contexts(made, rules)])
        for each in found.contexts:
            assert made.student_prompt in each.prompt and each.prompt != made.student_prompt
        specs = examples.concept_specs(found, runs_of(eta=1.0, eta_erase_from=1.0))
        assert len(specs) == 1 + len(found.contexts) == 1 + len(examples.context_specs(found, runs_of()))
        assert sum(share for _, share in specs) == pytest.approx(made.weight)

    @examples_of(15)
    @given(st.integers(1, 3), st.integers(0, 2**64 - 1), st.floats(-3, 1))
    def test_what_is_left_of_concepts_decides_their_shares(self, count, seed, gone):
        chosen, made = until_gone.settled(
            [concepts.make_concept(f"cat {i}") for i in range(count)], runs_of(seed=seed, steps=7, stop="when gone")
        )
        assert made.steps == 7 * count and made.examples_per_buffer <= 200
        gauge = until_gone.GoneGauge(FakeDenoiser(), FakeConditions(), chosen, made)
        before = gauge.denoiser.passes
        left = gauge.measure()
        assert gauge.denoiser.passes - before == until_gone.measuring_passes(chosen, made)
        assert until_gone.closeness(chosen) == until_gone.CLOSE and not until_gone.measuring_again_passes(chosen, made)
        assert [each.percent for each in left] == [100] * count and not gauge.confirmed()
        limits = {prompt: until_gone.gone_at(chosen[0], prompt) for prompt in left[0].residuals}
        left[0] = until_gone.Left(left[0].prompt, dict.fromkeys(limits, gone), limits)
        shares = until_gone.shares_by_left(chosen, left)
        assert len(shares) == sum(1 + len(c.contexts) for c in chosen) and all(share > 0 for share in shares)
        assert shares[0] <= max(shares) and left[0].is_gone == (gone <= min(limits.values()))

    @examples_of(60)
    @given(st.floats(0, 20), st.none() | st.floats(0, 20), st.sampled_from(("", "man in a hat")))
    def test_a_lesson_has_the_eta_of_its_concept_or_is_refused(self, eta, other, erase_from):
        concept, settings = concepts.make_concept("hat", erase_from=erase_from), runs_of(eta=eta, eta_erase_from=other)
        wanted = other if erase_from and other is not None else eta
        assert examples.eta_of(concept, settings) == wanted
        made = outcome(lambda: examples.target_spec(concept, settings))
        assert (made is None) == bool(erase_from and not wanted)
        assert made is None or made.eta == wanted

    def test_a_snapshot_comes_back(self, tmp_path):
        run = train.Training(FakeDenoiser(), FakeConditions(), [concepts.make_concept("cat")], [], runs_of(steps=2))
        next(iter(run))
        snapshot.write_snapshot(run.snapshot(), tmp_path / "s", "run")
        found = snapshot.read_snapshot(tmp_path / "s", "run", run.denoiser)
        assert list(found.losses) == run.losses


ABOUT = ("esd.concepts", "esd.keeps", "esd.settings", "esd.eta", "esd.method")


def change(shape=(8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.1


class TestWeights:
    """Results, their description and their files."""

    @examples_of(80)
    @given(
        st.dictionaries(TEXTS, tensors(), max_size=3),
        st.dictionaries(st.sampled_from(ABOUT), JSON.map(json.dumps) | TEXTS, max_size=5),
    )
    def test_any_weights_with_any_metadata_are_described(self, found, about):
        erased = erasure.Erasure({erasure.PREFIX + n: t for n, t in found.items()}, about)
        assert f"changes {len(found)} tensors" in report.describe(erased)
        norms = report.layer_norms(erased)
        assert all(norm >= 0 or math.isnan(norm) for norm in norms.values()) and len(norms) <= len(found)
        assert all(isinstance(v, str) for v in official.to_official(about, "SD1.x").values())
        assert set(official.from_official(about | {"format": official.FORMAT})) <= {
            "esd.concepts", "esd.method", "esd.base_file", "esd.eta"}  # fmt: skip
        assert repr(erased).startswith("ErasedWeights(") and erased.get_ram_usage() >= 0

    @examples_of(60)
    @given(JSON.map(json.dumps) | TEXTS)
    def test_metadata(self, text):
        assert isinstance(metadata.as_dict(text), dict) and all(isinstance(t, dict) for t in metadata.as_dicts(text))
        assert isinstance(metadata.as_str(text), str) and metadata.as_str(3) == ""
        found = metadata.as_float(text)
        assert found is None or math.isfinite(found)

    @examples_of(40)
    @given(NUMBERS | TEXTS | st.none() | st.lists(SIZES))
    def test_a_number_of_metadata(self, value):
        found = metadata.as_float(value)
        assert found is None or math.isfinite(found)

    @examples_of(60)
    @given(TEXTS)
    def test_a_lora_key(self, name):
        made = outcome(lambda: erasure.lora_key(name))
        assert (made is None) == (name.rpartition(".")[2] not in erasure.SUFFIXES)

    @examples_of(40)
    @given(tensors(), st.dictionaries(st.text(), st.text(), max_size=3))
    def test_differences_come_back(self, tmp_path, tensor, about):
        name = "out.0.weight"
        erased = erasure.Erasure({erasure.PREFIX + name: tensor}, about)
        outcome(lambda: erasure.save_differences(erased, tmp_path / "w"))
        with lazy.open_tensors(tmp_path / "w") as file:
            (back,) = file.tensors.values()
            assert back.shape == tuple(tensor.shape) and file.metadata == about
            assert torch.equal(back.load().nan_to_num(), tensor.nan_to_num())
        safetensors_write.write_safetensors({"x": tensor}, tmp_path / "w", {})

    @examples_of(60)
    @given(tensors(2, 4), st.integers(-3, 9) | st.just(10**9), NUMBERS)
    def test_a_lora(self, tensor, rank, energy):
        erased = erasure.Erasure({erasure.PREFIX + "a.weight": tensor})
        made = outcome(lambda: lora.decompose(erased, rank, energy))
        if made is not None:
            assert 0 <= made.energy <= 1.000001
        if made is not None and tensor.numel():
            up, down, (kept, total) = lora.low_rank(tensor.float(), rank, energy)
            assert kept <= total * 1.000001 and up.shape[1] == down.shape[0]
            if rank > 5:
                product = (up.flatten(1).double() @ down.flatten(1).double()).reshape(tensor.shape).float()
                assert torch.allclose(product, tensor.float(), atol=1e-4)

    @examples_of(30)
    @given(st.sampled_from((OSError(28, "No space left"), None, EsdError("It is full: empty it."))))
    def test_files_are_whole_or_not_there(self, tmp_path, error):
        def fill(path):
            (path if path.suffix != ".folder" and not path.is_dir() else path / "x").write_bytes(b"1")
            if error:
                raise error

        for made, writer in (
            (tmp_path / "a", atomic.write_atomically),
            (tmp_path / "b", atomic.write_folder_atomically),
        ):
            outcome(lambda writer=writer, made=made: writer(made, fill))
            assert made.exists() == (error is None)
            if made.is_dir():
                (made / "x").unlink()
                made.rmdir()
            made.unlink(missing_ok=True)
        assert list(tmp_path.iterdir()) == []
        assert atomic.writer_of(tmp_path / "a") is None


class TestFormats:
    """Files: see test_fuzz_files.py for damaged ones; here the functions by themselves."""

    @examples_of(120)
    @given(
        st.dictionaries(st.sampled_from(sorted(SHAPES)) | TEXTS, tensors(), max_size=3),
        st.sampled_from((*load.INTERPRETATIONS, "", "x")),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    )
    def test_any_tensors_under_any_names(self, tmp_path, found, interpret, about):
        assume(not any("\ud800" in name for name in found))
        (tmp_path / "w").write_bytes(save(found, about or None))
        safetensors_header.safetensors_header(tmp_path / "w")
        made = outcome(lambda: load.load_erasure(tmp_path / "w", load.Base(network()), interpret))
        assert made is None or all(torch.isfinite(t).all() for t in made.weights.differences.values())

    @examples_of(60)
    @given(
        st.recursive(tensors(), lambda inner: st.dictionaries(TEXTS | st.integers(), inner, max_size=3), max_leaves=5)
    )
    def test_any_tables_as_a_pytorch_file(self, tmp_path, tree):
        torch.save(tree, tmp_path / "w")

        def whole():
            with lazy.open_tensors(tmp_path / "w") as file:
                return {name: t.load() for name, t in file.tensors.items()}

        found = outcome(whole)
        if found is not None:
            flat = dict(lazy.flattened(tree.get("state_dict", tree)))
            assert {n: tuple(t.shape) for n, t in flat.items()} == {n: tuple(t.shape) for n, t in found.items()}
            assert torch_zip.check_torch_zip(tmp_path / "w")
            torch_zip.refuse_bomb(tmp_path / "w")

    @examples_of(80)
    @given(
        st.binary(max_size=60), st.sampled_from((b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\2\0\0\0\0\0\0\0{}"))
    )
    def test_any_bytes(self, tmp_path, raw, start):
        (tmp_path / "w").write_bytes(start + raw)
        outcome(lambda: load.load_erasure(tmp_path / "w", load.Base(network())))
        outcome(lambda: pickle_scan.check_pickle(tmp_path / "w", io.BytesIO(raw)))
        try:
            pickle_scan.pickled_names(io.BytesIO(raw))
        except (ValueError, IndexError, TypeError):
            COUNTED["refused"] += 1

    @examples_of(80)
    @given(SHAPE.flatmap(lambda shape: st.tuples(tensors_of(shape), tensors_of(shape))), st.booleans())
    def test_a_comparison(self, pair, without_rounding):
        value, base = pair
        found = outcome(
            lambda: difference.compare({"x": lazy_tensor.in_memory(value)}, lambda _: base, without_rounding)
        )
        if found is not None:
            assert found.compared == 1 and found.equal + len(found.differences) == 1
            assert found.mismatch(1) is None or isinstance(found.mismatch(1), str)
        assert difference.equal_up_to_rounding(base, base) or base.isnan().any()
        outcome(lambda: difference.require_finite("x", value))

    @examples_of(60)
    @given(st.lists(SIZES, max_size=4).map(tuple), st.lists(SIZES, max_size=4).map(tuple))
    def test_shapes_that_fit(self, one, other):
        assert detect.fits(one, one) and detect.fits(one, other) == detect.fits(other, one)
        if detect.fits(one, other):
            assert math.prod(one) == math.prod(other)

    @examples_of(60)
    @given(TEXTS | st.sampled_from(sorted(SHAPES)))
    def test_names_of_a_network(self, name):
        ours = network()
        assert ours.host_name(name) in (None, *SHAPES)
        assert set(networks.module_paths(ours).values()) == {n.rpartition(".")[0] for n in SHAPES}
        assert networks.kohya_path(name).startswith("lora_unet_") and "." not in networks.kohya_path(name)
        assert set(networks.diffusers_names(ours)) == set(SHAPES)

    @examples_of(30)
    @given(st.sets(st.sampled_from([n for n in sorted(SHAPES) if "attn2" in n]), max_size=3))
    def test_absolute_values(self, tmp_path, names):
        ours = network()
        erased = erasure.Erasure({erasure.PREFIX + n: change(SHAPES[n]) for n in names})
        made = official.official_tensors(erased, ours)
        assert len(made) == len(names)
        for name in names:
            wanted = ours.weight(name) + change(SHAPES[name])
            assert torch.equal(official.absolute(ours, name, lambda n=name: change(SHAPES[n])).load(), wanted)
        safetensors_write.write_stream(tmp_path / "w", made, {})
        with lazy.open_tensors(tmp_path / "w") as file:
            assert file.tensors.keys() == made.keys()
            if made:
                content = detect.detect(file, ours)
                assert set(content.tensors) == set(names)
                assert load.describe(tmp_path / "w", file, content)["esd.source_file"] == "w"

    @examples_of(40)
    @given(
        st.integers(1, 4),
        st.lists(st.integers(0, 3), min_size=2, max_size=2),
        st.integers(-2, 3),
        st.sampled_from((0, 8, 2816)),
    )
    def test_a_diffusers_configuration(self, channels, depths, middle, vector):
        shape = diffusers.UnetShape(
            4, 4, (320, 640), (1, channels), tuple(depths), middle, tuple(depths), 768, False, 0, vector
        )
        made = outcome(lambda: diffusers.config(shape))
        assert made is None or json.loads(json.dumps(made)) == made

    def test_a_whole_unet(self, tmp_path):
        erased = erasure.Erasure({erasure.PREFIX + "out.0.weight": change((8,))})
        shape = diffusers.UnetShape(4, 4, (320,), (1,), (1,), 1, (1,), 768, False, 8, 0)
        diffusers.write_unet(tmp_path, erased, network(), shape)
        assert {p.name for p in tmp_path.iterdir()} == {"config.json", diffusers.WEIGHTS_FILE}


class TestEvaluation:
    """Prompt sets, counts and reports."""

    @examples_of(80)
    @given(TEXTS, st.binary(max_size=60), TEXTS, st.sampled_from(prompt_set.ROLES), st.booleans(), st.integers(0, 9))
    def test_any_text_or_bytes_are_rows_or_one_sentence(self, text, data, words, role, per_row, first):
        of_lines = outcome(lambda: prompt_set.rows_of_lines(text, role)) or ()
        of_csv = outcome(lambda: prompt_set.rows_of_csv(b"prompt,seed\n" + data, "a file", role)) or ()
        rows = (*of_lines, *of_csv)
        assert all(row.prompt and row.label and row.role in prompt_set.ROLES for row in rows)
        chosen = outcome(lambda: prompt_set.selected(rows, words, first)) or ()
        assert len(chosen) <= (first or len(rows)) and set(chosen) <= set(rows)
        assert per_row or all(row.guidance is None for row in prompt_set.with_guidance(rows, per_row))
        made = outcome(lambda: prompt_set.prompt_set(text, rows))
        assert made is None or set(made.drawn) <= set(rows)

    @examples_of(60)
    @given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 2**32))
    def test_intervals_hold_their_share(self, found, prompts, seed):
        hits, n = sum(found), len(found)
        names = [str(i % prompts) for i in range(n)]
        drawn = statistics.cluster_bootstrap(found, names, draws=20, seed=seed)
        assert drawn == statistics.cluster_bootstrap(found, names, draws=20, seed=seed)
        for interval in (statistics.wilson(hits, n), drawn):
            assert 0 <= interval.low <= interval.high <= 1
        assert statistics.wilson(hits, n).low <= hits / n <= statistics.wilson(hits, n).high
        assert 0 < statistics.mcnemar(hits, n - hits) <= 1 == statistics.mcnemar(n, n)

    @examples_of(40)
    @given(TEXTS, TEXTS, st.lists(st.booleans(), min_size=1, max_size=12), st.floats(allow_nan=True))
    def test_any_scores_make_a_report(self, prompt, title, found, figure):
        scores = [
            metrics.Score("m", str(i), prompt, "erased", title, i, prompt, figure, hit) for i, hit in enumerate(found)
        ]
        (change,) = metrics.changes(scores, scores)
        assert change.before == metrics.rate(scores) and change.p_value == 1
        about = evaluation_report.Report(title, ((prompt, title),), title, (change,), tuple(scores))
        assert json.loads(evaluation_report.to_json(about))["title"] == title
        assert evaluation_report.to_csv(scores).count(evaluation_report.to_csv([])) == 1
        assert evaluation_report.rate_words(change.after) in evaluation_report.to_text(about)
        assert "<script" not in evaluation_report.to_html(about).lower()

    @examples_of(30)
    @given(TEXTS, TEXTS, st.floats(0, 20), st.integers(1, 6), st.integers(0, 2**32))
    def test_a_start_for_any_words(self, words, whole, eta, count, seed):
        made = outcome(lambda: concepts.make_concept(words, whole))
        if made is None:
            return
        if made.silent_prompt:
            assert made.silent_prompt == concepts.without(made.erase_from, made.erase)
            assert set(made.silent_prompt.split()) <= set(whole.split())
            assert len(made.silent_prompt.split()) < len(whole.split())
        prompts = closed_form.staying_prompts([made])
        assert prompts[0] == "" and not any(set(words.split()) <= set(p.split()) for p in prompts[1:])
        random = torch.Generator().manual_seed(seed)
        found = {
            p: torch.randn((count, 4), generator=random, dtype=torch.float64)
            for p in concepts.prompts_of([made], []) + prompts
        }
        alone = closed_form.staying_words([made])
        assert (
            len(set(alone)) > 20
            and "" in alone
            and not set(alone) & {word for said in (words, whole) for word in said.split()}
        )
        moment = closed_form.second_moment(found[p] for p in prompts)
        if closed_form.fits(made) and (eta or made.anchor_prompt != made.student_prompt):
            edit = closed_form.text_edit(found.__getitem__, [made], runs_of(eta=eta, eta_erase_from=None), moment)
            assert bool(torch.isfinite(torch.cat([edit.keys, edit.values])).all())

    @examples_of(30)
    @given(TEXTS, st.integers(0, 2**32))
    def test_a_style_among_others(self, words, seed):
        made = outcome(lambda: concepts.make_concept(f"{words} style"))
        if made is None:
            return
        (chosen,), settings = contexts.by_kind([made]), runs_of(seed=seed)
        around = len(chosen.contexts or ())
        pictures = 4 + min(4, around) + 4 + min(16, around)
        assert closed_form.is_style(chosen) and until_gone.looking_passes([chosen], settings) == pictures * drawn.PASSES
        if closed_form.fits(chosen):
            said = chosen.erase.split()
            for other in closed_form.other_styles(chosen.erase, chosen.erase):
                assert len(other.split()) == len(said) and other.split() != said
        specs = examples.context_specs(chosen, settings)[:2]
        fake, random = FakeDenoiser(), torch.Generator().manual_seed(seed)
        assert len(drawn.shown(fake, FakeConditions(), specs, settings, random)) == 2
        assert fake.passes == 2 * drawn.PASSES

    @examples_of(15)
    @given(st.integers(1, 3), st.integers(0, 2**32))
    def test_the_base_judges_with_equal_noise(self, count, seed):
        latents = torch.zeros((count, 2, 4, 4))
        asked = [told(""), told("cat")]
        errors = likelihood.noise_errors(
            FakeDenoiser(), asked, latents, lambda x, noise, sigma: x + sigma[:, None, None, None] * noise, seed
        )
        assert errors.shape == (count, 2) and bool((errors == errors[:1]).all())
        assert len(likelihood.verdicts(errors, ["cat"]).answers) == count
        assert residual.as_spec("cat").prompts == ("", "cat", "")

    @examples_of(30)
    @given(st.sampled_from(tuple(sld.STRENGTHS)), st.integers(1, 60), st.floats(-9, 9))
    def test_safety_guidance_is_none_where_nothing_is_unsafe(self, name, steps, value):
        strength, nothing = sld.STRENGTHS[name], torch.zeros(1, 2, 4, 4)
        null = torch.full_like(nothing, value)
        guided = sld.safety_guidance(null, null, null, strength, nothing)
        assert not guided.guidance.any() and not guided.momentum.any()
        assert sld.warm(steps, steps, strength) and sld.warm(0, steps, strength) == (strength.warmup == 0)


class TestJudgedAndMerged:
    """Judges' answers, reports put side by side, erasures made one, and what a run takes."""

    @examples_of(40)
    @given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32))
    def test_the_largest_logit_is_the_answer(self, labels, pictures, seed):
        names = [str(i) for i in range(labels)]
        random = torch.Generator().manual_seed(seed)
        found = judge.best_of(names, torch.randn((pictures, labels), generator=random))
        assert found.found.sum(dim=1).tolist() == [1] * pictures and len(found.answers) == pictures
        units = zero_shot.logits(
            torch.randn((pictures, 6), generator=random), torch.randn((labels, 6), generator=random)
        )
        assert units.shape == (pictures, labels) and bool((units.abs() <= zero_shot.SCALE * 1.0001).all())
        own = torch.eye(labels).repeat_interleave(pictures, dim=0)
        assert zero_shot.self_test(own, names, pictures).share == 1.0
        assert (outcome(lambda: zero_shot.self_test(-own, names, pictures)) is None) == (labels > 1)
        assert outcome(lambda: zero_shot.require_projection(torch.zeros(3, 3), "text tower")) is None
        assert metrics.plain_rate(labels, labels + pictures).share == labels / (labels + pictures)

    @examples_of(40)
    @given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
    def test_prototypes_of_any_features(self, labels, pictures, seed):
        random = torch.Generator().manual_seed(seed)
        features = torch.randn((labels, pictures, 5), generator=random)
        learnt = outcome(lambda: prototypes.learn([str(i) for i in range(labels)], features))
        if learnt is not None:
            assert learnt.right.n == labels * pictures and bool(torch.isfinite(learnt.logits(features[0])).all())

    @examples_of(30)
    @given(st.sampled_from(("text", "number", "boolean", "mask")), st.integers(0, 4), st.integers(1, 4))
    def test_one_value_a_picture_or_a_sentence(self, kind, values, pictures):
        given_values = [torch.zeros(1, 4, 4) if kind == "mask" else f"v{i}" for i in range(values)]
        found = outcome(lambda: foreign.one_a_picture(given_values, kind, pictures))
        assert (found is None) == (values != pictures) and (found is None or len(found) == pictures)

    @examples_of(30)
    @given(st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
    def test_reports_side_by_side(self, names, same_judge):
        score = metrics.Score("m", "0", "cat", "erased", "cat", 0, "cat", 1.0, True)
        reports = [(name, "card" if same_judge else str(i), [score]) for i, name in enumerate(names)]
        arms = outcome(lambda: compare.arms_of(reports))
        assert (arms is None) == (not same_judge and len(names) > 1)
        if arms is not None:
            assert len(arms) == len(names) and len(compare.compare(arms)) == len(names)

    @examples_of(30)
    @given(st.integers(1, 4), st.sampled_from((merge.SUM, merge.PROJECTED)), st.floats(-2, 2), st.integers(0, 2**32))
    def test_erasures_are_made_one(self, count, mode, scale, seed):
        random = torch.Generator().manual_seed(seed)
        parts = [erasure.Erasure({"a": scale * torch.randn((3, 2), generator=random)}) for _ in range(count)]
        made = merge.merge(parts, mode)
        assert bool(torch.isfinite(made.differences["a"]).all())
        if count == 1:
            torch.testing.assert_close(made.differences["a"], parts[0].differences["a"], rtol=1e-4, atol=1e-6)
        flat = torch.stack([part.differences["a"].flatten().double() for part in parts])
        assert bool((merge.least_reaching((flat @ flat.T)[None]) >= 0).all())
        assert merge.merged_metadata([{}] * count, mode)["esd.merged"].startswith(f"{count} erasures")

    @examples_of(20)
    @given(st.lists(TEXTS, max_size=4), st.integers(0, 2**64 - 1))
    def test_blind_sheets_and_their_pages(self, roles, seed):
        pairs = [evaluation_report.PicturePair(role, role, 1, b"b", b"a") for role in roles]
        places = study.on_sheet(roles, seed)
        assert sorted(places) == list(range(len(roles))), "so few are all asked for"
        sheet = study.to_study("t", [pairs[place] for place in places], seed)
        assert sheet.count(page.picture(b"b")) == sheet.count(page.picture(b"a")) == len(roles)
        assert all(page.escaped(role) in sheet for role in roles)
        assert page.page("t", [page.table(("h",), [(role,) for role in roles])]).count("<td>") == len(roles)
        assert page.table_of_markup(("h",), [("<b>x</b>",)]).count("<b>x</b>") == 1

    @examples_of(20)
    @given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 2**32))
    def test_merging_by_any_words_keeps_what_changes(self, words, seed):
        random = torch.Generator().manual_seed(seed)
        told = {word: torch.randn((3, 4), generator=random, dtype=torch.float64) for word in words}
        tokens = lambda prompt: told.get(prompt, torch.eye(4, dtype=torch.float64))  # noqa: E731
        names = ("a.attn2.to_k.weight", "b")
        parts = [
            erasure.Erasure(
                {names[0]: torch.randn((2, 4), generator=random), names[1]: torch.ones(1)},
                {"esd.concepts": json.dumps([{"erase": word}])},
            )
            for word in words
        ]
        acting = outcome(lambda: merge_by_prompts.acting_on_own(parts, tokens))
        assert (acting is None) == (not all(merge_by_prompts.concepts_of(each.metadata) for each in parts))
        if acting is not None:
            moved = merge_by_prompts.through(parts[0].differences[names[0]], acting[0])
            assert moved.shape == (2, 4) and bool(torch.isfinite(moved).all())
            assert closed_form.ridged(told[words[0]].mT @ told[words[0]]).shape == (4, 4)
        assert all(
            concepts.is_whole(each.erase) for part in parts for each in merge_by_prompts.concepts_of(part.metadata)
        )
        assert concepts.kept_prompts([concepts.Keep(tuple(words), weight) for weight in (0.0, 1.0)]) == words

    @examples_of(40)
    @given(st.integers(1, 50), st.integers(1, 4), st.booleans(), st.sampled_from(("when gone", "after all steps")))
    def test_more_steps_take_more_passes(self, steps, batch, keeping, stop):
        chosen, keeps = contexts.by_kind([concepts.make_concept("cat")]), [concepts.make_keep("dog", 1.0)] * keeping
        few, more = (runs_of(steps=n, batch_size=batch, stop=stop) for n in (steps, 2 * steps + 20))
        assert 0 < passes.planned_passes(few, chosen, keeps) < passes.planned_passes(more, chosen, keeps)
        assert passes.streams_of(keeps) == 1 + keeping
        taken = [
            passes.planned_passes(replace(few, robustness=each), chosen, keeps) for each in ("off", "light", "strong")
        ]
        assert taken == sorted(taken) and taken[0] == passes.planned_passes(few, chosen, keeps)
        assert [passes.together_of(replace(few, robustness=each), keeps) for each in ("off", "light")] == [
            1 + keeping,
            2 + keeping,
        ]
        light, strong = (robust.level_of(replace(few, robustness=each)) for each in ("light", "strong"))
        assert robust.level_of(few) is None and robust.attack_passes(light) < robust.attack_passes(strong)
        assert drift.drift_passes(keeps) == drift.LEVELS * keeping
        whole, gone = (until_gone.Left("cat", {"cat": rho}, {"cat": 0.0}) for rho in (1.0, 0.0))
        before, after = (step_size.needed(each) for each in ([whole], [whole, gone]))
        assert before == 1.0 and after == 0.5 and step_size.first_rate(few) > 0
        assert step_size.drifted([whole, gone]) == 0
        assert 0 < step_size.missing(1 / steps, 1 / batch) <= step_size.FASTER == step_size.missing(-1 / steps, 0)
        moved = [drift.Drift(f"{place}", 1.0 + place, 2.0 * (place % 3)) for place in range(max(keeping, 1))]
        shares, telling = drift.shares_by_drift(moved), [each for each in moved if each.effect]
        assert shares == sorted(shares) and min(shares) >= 1
        assert list(drift.percents(moved)) == [each.prompt for each in telling]

    @examples_of(20)
    @given(TEXTS, TEXTS, st.integers(0, 4), st.integers(0, 2**32))
    def test_attacks_on_any_concept(self, words, whole, steps, seed):
        made = outcome(lambda: concepts.make_concept(words, whole))
        if made is None:
            return
        fake, conditions, random = TokenDenoiser(), TokenConditions(), torch.Generator().manual_seed(seed)
        settings = runs_of(num_inference_steps=4, guidance_scale=3.0)
        held = residual.hold_out(fake, conditions, [attack.attacked_spec(made)], settings, random, 2)
        starts = attack.starts_of(conditions, made)
        found = attack.search(fake, conditions, starts, held, steps, random)
        assert slots.token_name(found.condition) == "text" and bool(torch.isfinite(found.values).all())
        spread = attack.residual_under(fake, conditions, found.condition, held)
        assert spread.low <= spread.mean <= spread.high
        turned = attack.upside_down(held[0])
        assert torch.equal(attack.upside_down(turned).change, held[0].change)
        moved = slots.move(slots.open_slots(conditions[words]), fake, held[0].x, held[0].sigma, turned.change)
        assert bool(torch.isfinite(moved.values).all())
        levels, latents = fake.sigmas(4)[:-1], torch.ones((2, 2, 4, 4))
        noised = lambda x, noise, sigma: x + sigma[:, None, None, None] * noise  # noqa: E731
        inverted = attack.invert(fake, starts[-1], latents, noised, levels, steps, random)
        drawn = attack.draw(fake, conditions[""], inverted.condition, latents, 3, 2.0, 1)
        raw = attack.raw_of(fake, drawn, latents, levels[:1].expand(2))
        assert drawn.shape == raw.shape == latents.shape
        tokens = lambda prompt: conditions[prompt].tensors["text"][0]  # noqa: E731
        kept = robust.pool([made], ["dog"], tokens, 3).prompts
        assert len(set(kept)) == len(kept) <= 5 and "dog" not in kept and kept[0] == ""


def test_every_public_function_has_a_property():
    """Every name that a module of esd/ defines for others is used in this file."""
    own = ast.parse(Path(__file__).read_text("utf-8"))
    used = {n.attr for n in ast.walk(own) if isinstance(n, ast.Attribute)} | {
        n.id for n in ast.walk(own) if isinstance(n, ast.Name)
    }
    missing = [
        f"{path.stem}.{node.name}"
        for path in sorted((ROOT / "esd").rglob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in used
    ]
    assert missing == []
    assert WIDTH == 3


def test_the_properties_are_counted():
    """The row of the table; it counts what the properties above tried."""
    if COUNTED["tried"] > 1000:
        counts = {"refused in one sentence": COUNTED["refused"], "right": COUNTED["tried"] - COUNTED["refused"]}
        record("odd texts, numbers, shapes and files for every public function of esd/", COUNTED["tried"], counts)
