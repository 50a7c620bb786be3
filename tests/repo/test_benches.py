"""The benches of speed and scaling: each runs on the playground, and puts its runs together honestly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).resolve().parents[2]


def bench(comfy_path, tmp_path, *arguments):
    """Run a bench in a process of its own; gives the JSON that it wrote."""
    line = [
        sys.executable,
        str(ROOT / "lab" / "launch" / "__main__.py"),
        "bench",
        *arguments,
        "--json",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env={**os.environ, "COMFYUI_PATH": str(comfy_path)}
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out").read_text("utf-8"))


@pytest.fixture
def bench_modules(monkeypatch):
    """The folder of the benches on the path."""
    monkeypatch.syspath_prepend(str(ROOT / "lab" / "bench"))


def test_speed_runs_beside_the_published_procedure(comfy_path, tmp_path):
    pytest.importorskip("diffusers")
    arms = ("published", "ours-default")
    found = bench(comfy_path, tmp_path, "speed", "--peak", "--repeats", "1", "--arms", *arms)
    assert found["torch"] and found["machine"] and found["date"]
    assert [(row["model"], row["arm"], row["repeats"]) for row in found["rows"]] == [("playground", a, 1) for a in arms]
    assert found["rows"][0]["passes_per_point"] == 7  # one level of two prompts, two predictions, forward and backward
    for row in found["rows"]:
        assert row["seconds_per_point"] > 0 and row["peak_bytes_above_model"] > 0
        assert 0 <= row["outside_network"] < 1 and row["seconds_to_erased"] is None


def test_scaling_runs(comfy_path, tmp_path):
    tiny = ("--model", "playground", "--latents", "8", "--points", "1", "--repeats", "1", "--batches")
    found = bench(comfy_path, tmp_path, "scaling", "--parts", "calls", "points", *tiny)
    calls, points = found["rows"][:2], found["rows"][2:]
    assert [row["gradient_checkpointing"] for row in calls] == [False, True]
    assert all(row["training_foretold"] > 0 for row in calls)
    assert all(row["part"] == "points" and row["passes_per_point"] >= 5 for row in points)


def test_micro_optimisations_run(comfy_path, tmp_path):
    variants = ("as it is", "two calls", "channels-last activations", "channels-last")
    found = bench(comfy_path, tmp_path, "micro_optimisations", "--repeats", "1", "--variants", *variants)
    assert [row["variant"] for row in found["rows"]] == list(variants)
    assert found["rows"][0]["walk_ratio"] == found["rows"][0]["training_ratio"] == 1


def test_precisions_run_beside_each_other(comfy_path, tmp_path):
    found = bench(comfy_path, tmp_path, "precision", "--seeds", "1", "--steps", "2", "--only", "object: cat")
    exact, *halves = found["rows"]
    assert exact["arm"] == "fp32" and exact["cosine"] == 1 and len(halves) == 5
    assert all(0.5 < row["cosine"] < 1 for row in halves)


def test_large_models_are_planned_for_cards(comfy_path, tmp_path):
    found = bench(comfy_path, tmp_path, "large_models", "--parts", "foretold", "--families", "FLUX.2 klein 4B")
    arms = {(row["rank"], row["optimizer"]): row for row in found["rows"]}
    shipped = json.loads((ROOT / "lab" / "bench" / "large_models.json").read_text("utf-8"))["rows"]
    klein = [row for row in shipped if (row["part"], row["family"]) == ("foretold", "FLUX.2 klein 4B")]
    assert list(arms.values()) == klein
    low, full = arms[16, "adamw"], arms[0, "adamw"]
    assert low["bytes_student"] < full["bytes_student"] / 50 and low["cards"]["12"] == "whole"
    assert low["bytes_weights"] == pytest.approx(7.75e9, rel=0.01)


def test_a_run_that_never_got_there_does_not_make_the_median_better(bench_modules):
    speed = pytest.importorskip("speed")
    runs = [{name: 1.0 for name in speed.FIGURES} | {"seconds_to_erased": s, "seed": 0} for s in (3.0, None, 5.0)]
    assert speed.medians(runs)["seconds_to_erased"] == 5.0
    assert speed.medians(runs[1:2])["seconds_to_erased"] is None
    assert "seed" not in speed.medians(runs)


def test_the_judge_s_time_is_not_counted(bench_modules, monkeypatch):
    erased = pytest.importorskip("_time_to_erasure")
    now, verdicts = [0.0], iter([False, True])
    monkeypatch.setattr(erased.time, "perf_counter", lambda: now[0])

    class Subject:
        world = True

    class Watch(erased.Stopwatch):
        def _erased(self) -> bool:
            now[0] += 100.0
            return next(verdicts)

    watch, points = Watch(Subject(), dict), 0
    done = False
    while not done:
        now[0] += 1.0
        points += 1
        done = watch.point()
    assert points == 2 * erased.JUDGE_EVERY
    assert watch.figures == {"seconds_to_erased": float(points), "points_to_erased": points}


def test_the_chart_of_residuals_is_drawn_from_the_figures(bench_modules):
    """Otherwise run `python run.py bench until_gone_chart`."""
    drawing = pytest.importorskip("until_gone_chart")
    rows = json.loads(drawing.FIGURES.read_text("utf-8"))["rows"]
    assert (drawing.FOLDER / "until_gone.svg").read_text("utf-8") == drawing.chart(drawing.by_kind(rows))


def test_the_charts_in_the_guides_are_drawn_from_the_figures(bench_modules):
    """Otherwise run `python run.py bench quality_charts`."""
    drawing = pytest.importorskip("quality_charts")
    rows = json.loads((ROOT / "lab" / "bench" / "quality.json").read_text("utf-8"))["rows"]
    drawn = drawing.charts(rows)
    assert {path.name: path.read_text("utf-8") for path in drawing.FOLDER.glob("quality_*.svg")} == drawn
    tables = pytest.importorskip("_tables")
    texts = [path.read_text("utf-8") for path in tables.FILES]
    assert [tables.filled(text, rows) for text in texts] == texts
    assert sum(text.count("<!-- table:") for text in texts) == len(tables.CHOSEN)
    by_eta = drawing.curves(rows, "eta", [0.0, 1.0, 2.0, 4.0])
    assert len(by_eta) >= 7 and all(len(points) >= 3 for points in by_eta.values())
    (cat,) = [r for r in rows if r["task"] == "object: cat" and r["change"] == {"eta": 0.0}]
    assert by_eta["object: cat"][0][1] == cat["erased"]["after"]


def test_the_quality_table_of_a_transformer_has_what_its_family_trains(comfy, bench_modules):
    """Methods of its own, low-rank students, and no attribute without a direction."""
    from esd_pack.nodes.host.families import sd3

    quality = pytest.importorskip("quality")
    task = quality.Task("sunglasses", [{"erase": "sunglasses", "erase_from": "face"}], [], [], [])
    (family,) = sd3.FAMILIES
    changes = list(quality.variants(False, task, "sd35"))
    assert changes[0] == {} and [c["rank"] for c in changes if "rank" in c] == [16, 4]
    assert {c["method"] for c in changes if "method" in c} <= set(family.layer_names.methods)
    assert [c["eta"] for c in changes if "eta" in c] == [2.0, 4.0]
    assert not any("rank" in change for change in quality.variants(False, task))
