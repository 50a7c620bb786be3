"""What goes wrong around a run in a real server: pages that vanish, graphs that share a MODEL, a queue, a kill."""

from __future__ import annotations

import itertools

import pytest
from safetensors.numpy import load_file

from commands.graph import new_node as node
from support.outcomes import record
from support.serving import (
    ERASE,
    SAVE,
    Page,
    ended,
    other,
    page,
    progress_of,
    queue,
    saved,
    short_prompt,
    with_twin,
)


@pytest.fixture(scope="module")
def prompt(object_info):
    return short_prompt(object_info, steps=3, snapshot_every=2)


@pytest.fixture(scope="module")
def model_before(host, object_info):
    """The server's own copy of the MODEL before any of these runs, in the stock saver's file."""
    return saved_model(host, object_info)


@pytest.fixture(scope="module")
def alone(host, prompt, model_before):
    """Each concept's erasure from a run of its own with a page that stays."""
    return {name: saved(host, host.run(other(prompt, "2", concept=name)).outputs) for name in ("cat", "dog")}


def saved_model(host, object_info):
    """The loader's MODEL as the stock node Save Checkpoint writes it, by its bits."""
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    nodes = {
        "1": node(object_info, "ESDLoadModel", ckpt_name="emoji-world.ckpt"),
        "9": node(object_info, "CheckpointSave", **links, filename_prefix="incoming"),
    }
    host.run(nodes)
    path = max(host.base.glob("output/incoming*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
    found = {name: tensor.tobytes() for name, tensor in load_file(path).items()}
    path.unlink()
    return found


def says_goodbye(opened: Page) -> None:
    opened.socket.sendall(b"\x88\x80\0\0\0\0")
    opened.socket.close()


def stays_and_reads_nothing(opened: Page) -> None:
    """The server's messages pile up before a page that sleeps."""


_numbers = itertools.count(1000)


def anew(prompt, number=ERASE):
    """The prompt with a snapshot interval that it never reaches, so that the host has no result of it at hand."""
    return other(prompt, number, snapshot_every=next(_numbers))


GOING = {"closed": says_goodbye, "torn off": Page.vanish, "asleep": stays_and_reads_nothing}


class TestPagesThatVanish:
    """The result of a run does not need a page."""

    @pytest.mark.parametrize("how", GOING)
    def test_in_the_middle_of_a_run(self, host, prompt, alone, how):
        client = how.replace(" ", "-")
        with page(host, client) as opened:
            prompt_id = queue(host, anew(prompt), client)
            opened.read_until(b'"type": "progress"')
            GOING[how](opened)
            history = ended(host, prompt_id)
        assert history["status"]["status_str"] == "success"
        assert saved(host, history["outputs"]) == alone["cat"]
        record(f"the page {how} in the middle of a run", 1, "the run ended as ever, its file the same bit for bit")

    def test_that_never_were(self, host, prompt, alone):
        history = ended(host, queue(host, anew(prompt)))
        assert history["status"]["status_str"] == "success"
        assert saved(host, history["outputs"]) == alone["cat"]
        record("a run queued without any page", 1, "the run ended as ever, its file the same bit for bit")

    def test_another_page_sees_the_run_go_on(self, host, prompt, alone):
        """Torn off, then opened again with the same id, as a browser does after a lost connection."""
        with page(host, "again") as opened:
            prompt_id = queue(host, other(prompt, ERASE, steps=100000), "again")
            opened.read_until(b'"type": "progress"')
            opened.vanish()
        with page(host, "again") as opened:
            opened.read_until(b'"type": "esd.run"')
            host.interrupt()
            opened.read_until(b'"type": "execution_interrupted"')
        assert ended(host, prompt_id)["status"]["status_str"] == "error"
        record("the page opened again in the middle of a run", 1, "it sees the run go on, and cancels it")


class TestSharing:
    """Several Erase nodes on one MODEL, and several prompts in the queue."""

    def test_three_erase_nodes_in_one_graph(self, host, prompt, alone, object_info, model_before):
        """The same concept twice, and another, on one MODEL; each trains, as it is to start over."""
        graph = with_twin(with_twin(anew(prompt), "1"), "2", concept="dog")
        graph = anew(anew(graph, f"1{ERASE}"), f"2{ERASE}")
        run = host.run(graph)
        names = {ERASE: "cat", f"1{ERASE}": "cat", f"2{ERASE}": "dog"}
        for number, name in names.items():
            assert progress_of(run.events, number)
            assert saved(host, run.outputs, number.replace(ERASE, SAVE)) == alone[name]
        assert saved_model(host, object_info) == model_before
        record('Erase "cat" twice and Erase "dog" on one MODEL in one graph', 3, "each as alone; the MODEL as it was")

    def test_the_second_of_two_equal_nodes_takes_the_first_one_s_result(self, host, prompt, alone):
        run = host.run(with_twin(other(prompt, ERASE, start="reuse or resume", seed=1), "1"))
        trained = [number for number in (ERASE, "14") if progress_of(run.events, number)]
        assert len(trained) == 1 and saved(host, run.outputs) == saved(host, run.outputs, "15") != alone["cat"]
        record("two equal Erase nodes in one graph, with reuse", 1, "one trains, both have the same bits")

    def test_an_erase_node_after_an_erase_node(self, host, prompt, alone):
        chain = with_twin(prompt, "1", concept="dog")
        chain["14"]["inputs"]["model"] = [ERASE, 0]
        outputs = host.run(chain).outputs
        assert saved(host, outputs) == alone["cat"] and saved(host, outputs, "15") != alone["dog"]
        record("Erase on the MODEL of an Erase", 2, "the first as alone, the second of what the first left")

    def test_prompts_queued_back_to_back(self, host, prompt, alone, object_info, model_before):
        names = ("dog", "cat", "dog")
        queued = [queue(host, other(prompt, "2", concept=name)) for name in names]
        for name, prompt_id in zip(names, queued, strict=True):
            assert saved(host, ended(host, prompt_id)["outputs"]) == alone[name]
        assert saved_model(host, object_info) == model_before
        record("prompts queued back to back", len(names), "each as alone, bit for bit; the MODEL as it was")
