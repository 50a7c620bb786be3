"""The file of jobs: its schema, its mistakes with line and cure, the jobs and graphs that it gives, plan and report."""

from __future__ import annotations

import json
import re
import textwrap

import pytest

from commands.batch import graphs, jobs, lines, plan, report, schema, show, spec, work
from commands.batch.ledger import Outcome, RemoteLedger, ledger_at
from commands.batch.queue import MOST_LOSSES, Queue
from esd_pack.esd.errors import EsdError
from esd_pack.esd.settings import FIELDS
from support.paths import CHECKPOINT, NAME, ROOT

SHORT = "models: [a.safetensors, b.safetensors]\nconcepts: [cat, dog, bird]\n"


def batch(text: str) -> spec.Batch:
    return spec.from_document(lines.parse(text, "jobs.yaml"))


def made(text: str) -> list[jobs.Job]:
    return jobs.jobs_of(batch(text))


def test_the_schema_in_the_documents_is_the_one_that_checks():
    shown = json.loads((ROOT / "commands" / "batch" / "jobs.schema.json").read_text("utf-8"))
    assert shown == json.loads(json.dumps(schema.jobs_schema())), "python run.py batch --schema prints it"
    assert set(FIELDS) - schema.NOT_SET <= set(shown["$defs"]["settings"]["properties"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modles: [a]", 'line 1: "modles" is no key of the file: write "models".'),
        ("models: [a]", 'line 1: the file lacks "concepts": add it.'),
        ("models: []\nconcepts: [cat]", "line 1: models is empty"),
        (
            "models: [a]\nconcepts:\n  - cat\n  - no",
            "line 4: concepts, entry 2 is false: it must be a text; put it into",
        ),
        ("models: [a]\nconcepts: [cat, cat]", 'line 2: "cat" stands there twice'),
        ("models: [a, a]\nconcepts: [cat]", 'line 1: "a" stands there twice'),
        ("models: [a]\nmodels: [b]\nconcepts: [c]", 'line 2: "models" stands there twice'),
        (SHORT + "settings:\n  steps: 0", "line 4: settings, steps is 0: it must be from 1 to 100000."),
        (SHORT + "settings: {eta: -0.5}", "line 3: eta is -0.5: it must be 0 or more"),
        (SHORT + "settings: {method: xx}", 'settings, method is "xx": choose esd-x,'),
        (SHORT + "settings: [{}, {name: ' '}]", "line 3: settings, entry 2, name is empty"),
        (SHORT + "settings: [{name: a}, {name: a}]", 'line 3: Two settings are called "a"'),
        (SHORT + "evaluate: {erased: [a cat]}", 'line 3: "a cat" does not say where the concept goes'),
        (SHORT + "together: groups", 'line 2: "cat" has no group: add one.'),
        ("models: [a]\nconcepts: [{concept: x, group: g}]", 'line 2: "x" has a group: take it away'),
        ("models: [a]\nconcepts:\n- {concept: x, erase_from: x}", 'line 3: "erase from" equals the concept'),
        (SHORT + "contexts: {templates: [a photo]}", 'The template "a photo" does not say where'),
        (SHORT + "keep: [2024-99-99]", "line 3: month must be in 1..12: put it in quotes"),
        (SHORT + "keep: 5", 'line 3: keep is "5": it must be a list'),
        ("a: [", "line 1: "),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("- 1", "line 1: the file is a list: it must be a table"),
        ("", "line 1: the file is empty"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_cure(text, said):
    with pytest.raises(EsdError) as told:
        batch(text)
    assert said in str(told.value) and str(told.value).startswith("jobs.yaml, line ")


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(EsdError, match="no UTF-8"):
        spec.load(path)
    path.write_text("x" * (lines.MOST_BYTES + 1))
    with pytest.raises(EsdError, match="larger than"):
        spec.load(path)
    with pytest.raises(EsdError, match="cannot be read"):
        spec.load(tmp_path / "none.yaml")


def test_models_concepts_and_settings_are_multiplied_a_model_s_jobs_together():
    found = made(SHORT + "settings: [{seed: 1}, {seed: 2}]")
    assert len(found) == 12 == len({job.key for job in found}) == len({job.name for job in found})
    assert [job.model for job in found] == ["a.safetensors"] * 6 + ["b.safetensors"] * 6
    assert {job.settings for job in found} == {"settings 1", "settings 2"}


def test_keys_depend_on_what_a_job_depends_on_alone():
    def keys(text):
        return {job.key for job in made(text)}

    assert keys(SHORT) == keys(SHORT + "results: elsewhere\nname: other\nray: {gpus: 8}\n")
    assert keys(SHORT) == keys("concepts: [bird, cat, dog]\nmodels: [b.safetensors, a.safetensors]")
    for more in ("keep: [lion]", "settings: {seed: 1}", "save: [lora]", "evaluate: {}", "contexts: {kind: object}"):
        assert not keys(SHORT) & keys(SHORT + more), more


def test_concepts_go_alone_in_groups_or_all_into_one():
    concepts = ", ".join(f"{{concept: {word}, group: {group}}}" for word, group in ("xg", "yh", "zg"))
    groups = f"models: [a]\ntogether: groups\nconcepts: [{concepts}]"
    assert [job.concepts for job in made(groups)] == [("x", "z"), ("y",)]
    assert [job.concepts for job in made("models: [a]\ntogether: all\nconcepts: [x, y]")] == [("x", "y")]


def test_merged_jobs_need_their_parts_and_open_them():
    *parts, last = made("models: [a]\ntogether: all\nby: merging\nconcepts: [q, r, s, t, u]\nsave: [lora]")
    assert last.needs == tuple(part.key for part in parts) and all(part.is_part for part in parts)
    opened = [node["inputs"]["file"] for node in last.graph.values() if node["class_type"] == "ESDLoadErasure"]
    assert opened == [jobs.part_name(part.key) for part in parts]
    merges = [node["inputs"] for node in last.graph.values() if node["class_type"] == "ESDMergeErasures"]
    assert len(merges) == 2 and "previous" in merges[1] and "weights_4" in merges[0]
    assert [(each["mode"], "clip" in each) for each in merges] == [("sum", False), ("by prompts", True)]
    assert list(parts[0].files) == ["difference"] and list(last.files) == ["lora"]


def test_a_preset_counts_after_what_is_written():
    settings = batch(SHORT + "settings: {preset: paper-2023, steps: 7}").variants[0].settings
    assert settings.steps == 7 and settings.sampler_model == "student" and settings.learning_rate == 1e-5


def test_a_graph_links_only_to_nodes_before_it():
    text = SHORT + "keep: [{prompts: [x, y], weight: 2}, z]\nevaluate: {}\ncontexts: {kind: style}\n"
    for job in made(text + f"save: [{', '.join(schema.FORMATS)}]"):
        for number, node in job.graph.items():
            links = [value for value in node["inputs"].values() if isinstance(value, list)]
            assert all(int(source) < int(number) for source, _ in links)
        assert set(job.files) == {*schema.FORMATS, "evaluation", "picture"}


@pytest.mark.parametrize("name", ["batch.md", "erase-a-list-overnight.md"])
def test_the_examples_in_the_documents_are_files_of_jobs(name):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / name).read_text("utf-8"), re.DOTALL)
    whole = [textwrap.dedent(block) for block in blocks if "models:" in block]
    assert whole and all(made(block) for block in whole)


def test_labels_follow_the_arrow_or_are_the_concept_s_words():
    wanted = [spec.Wanted("cat"), spec.Wanted("sunglasses", "face wearing sunglasses")]
    told = graphs.erased_lines(wanted, spec.Evaluation(erased=("a [concept]", "[concept] -> it")))
    assert told[:2] == ["a cat -> cat", "cat -> it"] and told[2].endswith("-> face wearing sunglasses")


def test_the_plan_counts_passes_and_bytes_and_hours_by_what_is_done():
    text = f"models: [{NAME}]\nconcepts: [cat, dog]\n"
    planned, found = batch(text), made(text)
    (before,) = plan.plan_of(planned, found, {}, {NAME: CHECKPOINT})
    assert before.jobs == 2 and before.passes == sum(job.passes for job in found) and before.hours is None
    assert before.gigabytes * 2**30 == pytest.approx(2 * 11_152_696, rel=0.01)  # as the host writes them
    done = {found[0].key: Outcome(found[0].key, "done", 36.0)}
    (after,) = plan.plan_of(planned, found, done, {}, hosts=2)
    assert after.done == 1 and after.gigabytes is None and after.hours == pytest.approx(0.005)
    assert "?" in show.table(plan.HEAD, plan.lines_of([after]))


def test_a_host_gets_jobs_of_the_model_it_has_loaded_and_another_one_takes_the_next_model():
    queue = Queue(made(SHORT), {})
    first, second = queue.take("x"), queue.take("y")
    assert (first.model, second.model) == ("a.safetensors", "b.safetensors")
    assert queue.take("x", "b.safetensors").model == "b.safetensors"


def test_a_lost_job_waits_again_and_fails_in_the_end_and_so_does_what_needs_it():
    *_, last = found = made("models: [a]\ntogether: all\nby: merging\nconcepts: [q, r]")
    queue = Queue(found, {})
    for _ in range(MOST_LOSSES):
        taken = queue.take("x")
        assert taken.concepts == ("q",)
        queue.end(Outcome(taken.key, "lost", reason="killed"))
    queue.end(Outcome(queue.take("x").key, "done"))
    assert queue.take("x") is None and queue.is_over
    assert "hosts were lost under it; the last: killed" in queue.outcomes[found[0].key].reason
    assert "which is a part of it" in queue.outcomes[last.key].reason


@pytest.mark.parametrize("form", ["{}", "file://{}", "memory://{}"])
def test_a_result_is_there_whole_or_not_at_all_and_the_first_one_stays(tmp_path, form):
    ledger, (job, *_) = ledger_at(form.format(tmp_path)), made(SHORT)
    assert ledger.found(job) is None
    for seconds in (1.0, 2.0):
        with ledger.staging(job) as staging:
            (staging / "difference.safetensors").write_text(str(seconds))
            kept = ledger.commit(job, staging, Outcome(job.key, "done", seconds, files=("difference.safetensors",)))
        assert kept.seconds == 1.0 and ledger.found(job) == kept
    ledger.fetch(job, "difference.safetensors", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "1.0"
    ledger.write("graphs/x.json", "{}")
    if isinstance(ledger, RemoteLedger):
        assert ledger.system.cat_file(f"{ledger.root}/graphs/x.json") == b"{}"
    else:
        assert (tmp_path / "graphs" / "x.json").is_file()
        assert [path.name for path in (tmp_path / "jobs").iterdir()] == [job.name]


@pytest.mark.parametrize("record", [b"", b"\xff", None])
def test_a_folder_without_a_record_that_can_be_read_is_replaced(tmp_path, record):
    ledger, (job, *_) = ledger_at(str(tmp_path)), made(SHORT)
    folder = tmp_path / "jobs" / job.name
    folder.mkdir()
    (folder / "old").touch()
    if record is not None:
        (folder / "job.json").write_bytes(record)
    assert ledger.found(job) is None
    with ledger.staging(job) as staging:
        ledger.commit(job, staging, Outcome(job.key, "done"))
    assert ledger.found(job) and [path.name for path in folder.iterdir()] == ["job.json"]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [job.name]


def test_a_number_may_be_written_with_an_exponent():
    (variant,) = batch(SHORT + "settings: {learning_rate: 1e-5}").variants
    assert variant.settings.learning_rate == 1e-5


def test_an_unknown_kind_of_url_says_so():
    with pytest.raises(EsdError, match="cannot go to nothing://x"):
        ledger_at("nothing://x")


def test_worst_neighbours_are_those_that_lost_most():
    def score(label, model, found):
        return {"role": "kept", "label": label, "model": model, "found": found}

    scores = [score(label, "base", True) for label in "aabbc"]
    scores += [
        score(label, "erased", found) for label, found in zip("aabbc", (True, False, False, False, True), strict=True)
    ]
    assert work.worst_of(scores) == [["b", 2, 0], ["a", 2, 1]]


def test_the_index_page_escapes_all_that_it_is_told():
    hostile = "<img src=x onerror=alert(1)>"
    found = made(f"models: ['{hostile}']\nconcepts: ['{hostile}', dog]")
    ends = {found[0].key: Outcome(found[0].key, "failed", reason=hostile)}
    figures = {
        "found": {"erased": {"before": [2, 2], "after": [0, 2]}},
        "worst": [[hostile, 2, 0]],
        "left": {hostile: 3},
    }
    ends[found[1].key] = Outcome(found[1].key, "done", files=("picture.png", '"><b>'), figures=figures)
    page = report.as_html(hostile, found, ends)
    assert "<img src=x" not in page and "<b>" not in page and "2 of 2" in page and "1 results" in page
    assert json.loads(report.as_json("x", found, ends))["failed"] == 1
