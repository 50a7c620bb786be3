"""Which weights each method trains: the rules on names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esd_pack.esd.errors import EsdError
from esd_pack.esd.selection import METHODS, SDXL_UNET, UNET, LayerNames, ParameterInfo, Rows, row_slices, select

LEAVES = ("weight", "bias")
BLOCK = "input_blocks.1.1.transformer_blocks.0"
WEIGHTS = [
    ParameterInfo("time_embed.0.weight", "linear"),
    ParameterInfo("input_blocks.0.0.weight", "conv"),
    ParameterInfo("input_blocks.1.0.in_layers.0.weight", "other"),
    ParameterInfo("input_blocks.1.0.in_layers.2.weight", "conv"),
    ParameterInfo("input_blocks.1.0.emb_layers.1.weight", "linear"),
    ParameterInfo(f"{BLOCK}.norm2.weight", "other"),
    ParameterInfo(f"{BLOCK}.attn1.to_q.weight", "linear"),
    ParameterInfo(f"{BLOCK}.attn2.to_q.weight", "linear"),
    ParameterInfo(f"{BLOCK}.attn2.to_k.weight", "linear"),
    ParameterInfo(f"{BLOCK}.attn2.to_v.weight", "linear"),
    ParameterInfo(f"{BLOCK}.attn2.to_out.0.bias", "linear"),
    ParameterInfo("input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight", "linear"),
    ParameterInfo("output_blocks.8.1.transformer_blocks.0.attn2.to_q.weight", "linear"),
    ParameterInfo("output_blocks.8.0.out_layers.3.weight", "conv"),
    ParameterInfo("label_emb.0.0.weight", "linear"),
    ParameterInfo("out.0.weight", "other"),
    ParameterInfo("out.2.weight", "conv"),
]
SD1, SDXL = UNET, SDXL_UNET
LINEAR_AND_CONV = {w.name for w in WEIGHTS if w.kind != "other"}
TEXT = {w.name for w in WEIGHTS if "attn2" in w.name}
SELF = {w.name for w in WEIGHTS if "attn1" in w.name}
EMBEDDINGS = {"time_embed.0.weight", "label_emb.0.0.weight", "input_blocks.1.0.emb_layers.1.weight"}
ENDS = {"input_blocks.0.0.weight", "out.2.weight"}
ALL = {w.name for w in WEIGHTS}
EXPECTED = [
    ("esd-x", SD1, TEXT),
    ("esd-x-strict", SD1, {f"{BLOCK}.attn2.to_k.weight", f"{BLOCK}.attn2.to_v.weight"}),
    ("esd-u", SD1, LINEAR_AND_CONV - TEXT),
    ("esd-all", SD1, LINEAR_AND_CONV),
    ("selfattn", SD1, SELF),
    ("esd-x", SDXL, TEXT),
    ("esd-u", SDXL, LINEAR_AND_CONV - TEXT - EMBEDDINGS - ENDS),
    ("esd-all", SDXL, LINEAR_AND_CONV - EMBEDDINGS - ENDS),
    ("xattn", SD1, TEXT),
    ("noxattn", SD1, ALL - TEXT - {"time_embed.0.weight", "out.0.weight", "out.2.weight"}),
    ("full", SD1, ALL),
    ("notime", SD1, ALL - {"time_embed.0.weight", "out.0.weight", "out.2.weight"}),
    ("xlayer", SD1, {"output_blocks.8.1.transformer_blocks.0.attn2.to_q.weight"}),
    ("selflayer", SD1, {"input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"}),
]


@pytest.mark.parametrize(("method", "layer_names", "expected"), EXPECTED)
def test_rules_on_names(method, layer_names, expected):
    chosen = select(method, WEIGHTS, layer_names)
    assert set(chosen) == expected
    assert chosen == [w.name for w in WEIGHTS if w.name in expected]  # in the network's order


def test_every_method_is_listed_here():
    assert {*(method for method, _, _ in EXPECTED), "text-stream"} == set(METHODS)


JOINT = LayerNames(
    text_attention=("img.qkv.", "txt.qkv.", Rows("linear1.", 0, 3)),
    text_key_value=(Rows("img.qkv.", 1, 3),),
    text_stream=("txt.qkv.",),
)
FUSED = [
    *(ParameterInfo(f"double.0.{stream}.qkv.{leaf}", "linear", 4) for stream in ("img", "txt") for leaf in LEAVES),
    *(ParameterInfo(f"single.0.linear1.{leaf}", "linear", 4) for leaf in LEAVES),
    ParameterInfo("single.0.norm.weight", "other"),
]


@pytest.mark.parametrize(
    ("method", "modules", "rows"),
    [
        ("esd-x", ("img", "txt", "linear1"), {"single.0.linear1": (0, 12)}),
        ("esd-x-strict", ("img",), {"double.0.img.qkv": (4, 12)}),
        ("text-stream", ("txt",), {}),
    ],
)
def test_rows_of_fused_projections(method, modules, rows):
    """Keys and values alone, and the attention alone of a projection that the feed-forward shares."""
    wanted = [w.name for w in FUSED if w.kind == "linear" and any(f".{m}." in w.name for m in modules)]
    assert select(method, FUSED, JOINT) == wanted
    assert row_slices(method, FUSED, JOINT) == {f"{path}.{leaf}": of for path, of in rows.items() for leaf in LEAVES}


@pytest.mark.parametrize(("method", "begun"), [("esd-x", ["context.weight"]), ("text-stream", ["context.weight"]),
                                               ("selfattn", [])])  # fmt: skip
def test_a_start_changes_what_a_prompt_enters_beside_the_selection(method, begun):
    """What is no plain layer there, or is selected itself, is not named again; other methods do not read the text."""
    names = replace(JOINT, text_inputs=("context.weight", "pooled.weight"), self_attention=("linear2.",))
    more = {"single.0.linear2.weight": "linear", "context.weight": "linear", "pooled.weight": "other"}
    weights = [*FUSED, *(ParameterInfo(*each) for each in more.items())]
    chosen = select(method, weights, names)
    assert names.begun_too(chosen, weights) == begun
    assert names.inputs_of(chosen) == (names.text_inputs if begun else ())
    assert names.begun_too([*chosen, "context.weight"], weights) == []
    assert JOINT.inputs_of(chosen) == ()


def test_an_unknown_method_is_refused():
    with pytest.raises(EsdError, match='There is no method "esd-y": choose one of esd-x, esd-x-strict'):
        select("esd-y", WEIGHTS)


def test_a_method_that_a_family_does_not_have_is_refused():
    with pytest.raises(EsdError, match='"xlayer" is not defined for this kind of model: choose esd-x or esd-u'):
        select("xlayer", WEIGHTS, LayerNames(methods=("esd-x", "esd-u")))


def test_selecting_nothing_is_refused():
    with pytest.raises(EsdError, match='The method "selfattn" selects no weight of this model: choose another'):
        select("selfattn", [ParameterInfo("out.2.weight", "conv")])


@pytest.mark.parametrize("method", list(METHODS))
def test_other_layers_count_for_the_rules_of_2023_alone(method):
    """A norm inside the attention that a rule names: trained by the rules that took any layer, and by no later one."""
    names = [f"{block}.{attention}.{leaf}" for block in ("input_blocks.4", "output_blocks.6") for attention in
             ("attn1", "attn2") for leaf in ("norm.weight", "to_k.weight", "to_k.norm.weight")]  # fmt: skip
    weights = [ParameterInfo(name, "other" if "norm" in name else "linear") for name in names]
    of_2023 = METHODS[method].source == "official 2023"
    named = LayerNames(text_stream=("attn2.",))
    assert any("norm" in name for name in select(method, weights, named)) == of_2023


def test_a_star_stands_for_anything_behind_the_beginning_of_a_name():
    names = ["blocks.3.attn.to_k.weight", "blocks.3.mlp.weight", "refiner.blocks.3.attn.to_k.weight"]
    starred = LayerNames(text_attention=("blocks.*.attn.",))
    assert select("esd-x", [ParameterInfo(name, "linear") for name in names], starred) == names[:1]


def test_rows_are_counted_in_the_width_of_the_layer():
    fused = Rows("qkv.", 1, 3)
    names = LayerNames(text_attention=(fused,), text_key_value=(fused,), self_attention=())
    infos = [ParameterInfo("a.qkv.weight", "linear", 4), ParameterInfo("b.qkv.weight", "linear")]
    assert row_slices("esd-x", infos, names) == {"a.qkv.weight": (4, 12), "b.qkv.weight": (0, 0)}
