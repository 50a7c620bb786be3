"""What newer hosts know of a node beyond names and inputs, given to them and kept from the others."""

from __future__ import annotations

import importlib
import inspect
import types

import pytest

from esd_pack.esd.settings import FIELDS
from support.short_runs import module

SAYING = {"ESDLoadModel", "ESDLoadErasure", "ESDSaveCheckpoint", "ESDSaveErasure", "ESDErasureInfo"}
SAYING |= {"ESDMeasure", "ESDAttack", "ESDPromptSet", "ESDEvaluate", "ESDScore", "ESDCompareReports"}
RARE = {
    "ESDErase": {"snapshot_every", "start", "stop", "robustness"},
    "ESDSaveErasure": {"rank", "energy"},
    "ESDSaveCheckpoint": {"precision"},
    "ESDLoadErasure": {"interpret"},
    "ESDBeforeAfter": {"difference_gain"},
    "ESDMeasure": {"steps", "width", "height"},
    "ESDAttack": {"width", "height"},
    "ESDPromptSet": {"file_role", "label_contains", "first_rows", "guidance"},
    "ESDEvaluate": {"in_model", "resume", "shards", "shard_number"},
}


def test_fields_that_a_maker_does_not_take_are_left_out(node_classes):
    known = importlib.import_module("esd_pack.nodes.schema").known
    assert known(lambda a, b=1: None, a=1, c=2) == {"a": 1}


@pytest.fixture
def fields(comfy) -> set[str]:
    from comfy_api.latest import io

    return set(inspect.signature(io.Schema).parameters)


def test_a_host_that_knows_them_gets_them(node_classes, object_info, fields):
    for name, node in node_classes.items():
        schema, told = node.GET_SCHEMA(), object_info[name]
        if "search_aliases" in fields:
            assert schema.search_aliases and told["search_aliases"] == schema.search_aliases
        if "has_intermediate_output" in fields:
            assert schema.has_intermediate_output == told["has_intermediate_output"] == (name in SAYING)
    if "search_aliases" in fields:
        assert {"unlearn", "forget", "LECO"} <= set(object_info["ESDErase"]["search_aliases"])


def test_rarely_used_inputs_are_marked_where_the_host_folds_them(comfy, object_info):
    from comfy_api.latest import io

    if "advanced" not in inspect.signature(io.Int.Input).parameters:
        pytest.skip("this host folds no inputs")
    for name, wanted in RARE.items():
        groups = object_info[name]["input"].values()
        marked = {key for group in groups for key, (_, *more) in group.items() if more and more[0].get("advanced")}
        assert marked == wanted


@pytest.mark.parametrize("server", [None, types.SimpleNamespace()])
def test_a_process_without_routes_gets_none(node_classes, monkeypatch, server):
    live = module("run.status")
    monkeypatch.setattr(live.PromptServer, "instance", server)
    live.add_routes()
    assert not hasattr(server, "esd_routes")


def test_every_setting_has_one_widget(node_classes):
    """But the one without a tooltip, which presets alone set."""
    shown = [node_classes[name].GET_SCHEMA().inputs for name in ("ESDErase", "ESDEraseSettings")]
    widgets = [each.id for inputs in shown for each in inputs if each.id in FIELDS]
    assert sorted(widgets) == sorted(name for name, field in FIELDS.items() if field.tooltip)
