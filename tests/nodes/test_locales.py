"""Node texts in other languages: English is the schemas', the others are complete, and the page shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from lab.launch import locales
from support import browser

LANGUAGES = [code for code in locales.languages() if code != locales.ENGLISH]
WORDS = re.compile(
    r"""
    "[^"]+"                                     # prompts, which stay English
    | \b(?:\w+/)+\w*                            # folders
    | (?<![\w.])-?\d+(?:\.\d+)?(?:e-\d+)?(?!\w)  # numbers
    | \bSD(?:XL|\d(?:\.x)?)                     # model families
    | \bfp(?:16|32) | \b(?:MODEL|ESD|ICCV|UCE|LECO|UNet|VAE|KSampler|GPU|CPU)\b | \bLoRA
    | \bLoad\ (?:LoRA|Checkpoint)\b | \bPlot\ Loss\ Graph\b | \bFinish\ now\b | \(R\)
    | \b(?:diffusers|bitsandbytes|negative_guidance|selfattn|eta)\b
    """,
    re.VERBOSE,
)
WRITING = {
    "zh": "\u4e00-\u9fff",
    "zh-TW": "\u4e00-\u9fff",
    "ja": "\u3040-\u30ff\u4e00-\u9fff",
    "ko": "\uac00-\ud7af",
    "ru": "\u0400-\u04ff",
}
LATIN_NAMES = {"ckpt_name", "eta", "gradient_checkpointing", "clip", "vae", "cfg", "scheduler", "weights"}


@pytest.fixture(scope="module")
def english() -> locales.Definitions:
    """The English texts, as they are in the repository."""
    return locales.read(locales.ENGLISH)


def test_there_are_the_languages_that_we_promise():
    assert set(locales.languages()) == {"en", "zh", "zh-TW", "ja", "ko", "fr", "es", "pt-BR", "ru", "tr"}


def test_english_is_what_the_schemas_say(node_classes, english):
    """If this fails, `python run.py locales` writes it anew and says what to translate."""
    assert english == locales.definitions(node_classes.values())


@pytest.mark.parametrize("code", LANGUAGES)
def test_nothing_is_missing_stale_empty_or_out_of_order(english, code):
    other = locales.read(code)
    assert locales.compare(english, other) == ([], [])
    assert all(isinstance(text, str) and text == text.strip() and text for _, text in locales.leaves(other))
    assert json.dumps(locales.ordered(english, other)) == json.dumps(other)


@pytest.mark.parametrize("code", locales.languages())
def test_the_page_s_own_signs_do_not_occur(code):
    """Braces, @ and | mean something to the page's message compiler."""
    assert [text for _, text in locales.leaves(locales.read(code)) if re.search(r"[{}@|]", text)] == []


@pytest.mark.parametrize("code", LANGUAGES)
def test_numbers_names_and_prompts_stand_in_the_translation(english, code):
    other = dict(locales.leaves(locales.read(code)))
    lost = [
        (key, word)
        for key, text in locales.leaves(english)
        if key[-1] != "name"
        for word in WORDS.findall(text)
        if word.lower() not in other[key].lower()
    ]
    assert lost == []


@pytest.mark.parametrize("code", LANGUAGES)
def test_options_keep_their_names(object_info, english, code):
    """What an input's tooltip says of its options, the translation says too; the page shows options as they are."""
    other = locales.read(code)
    lost = [
        (node, name, option)
        for node in english
        for name, option in _options(object_info[node])
        if re.search(rf"\b{re.escape(option)}\b", english[node]["inputs"][name]["tooltip"])
        and option not in other[node]["inputs"][name]["tooltip"]
    ]
    assert lost == []


def _options(info: dict) -> Iterator[tuple[str, str]]:
    for group in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(group, {}).items():
            listed = kind if isinstance(kind, list) else more[0].get("options", []) if more else []
            yield from ((name, option) for option in listed if option not in ("on", "off"))  # ordinary words


@pytest.mark.parametrize(("code", "letters"), WRITING.items())
def test_it_is_written_in_the_language_s_script(code, letters):
    latin = [
        key
        for key, text in locales.leaves(locales.read(code))
        if not re.search(f"[{letters}]", text) and not (key[-1] == "name" and key[2] in {*LATIN_NAMES, "0", "1", "2"})
    ]
    assert latin == []


def test_names_of_nodes_and_of_a_node_s_inputs_differ():
    """Two nodes of one name, or two inputs, could not be told apart."""
    for code in locales.languages():
        nodes = locales.read(code)
        assert len({node["display_name"] for node in nodes.values()}) == len(nodes)
        for node in nodes.values():
            names = [each["name"].lower() for each in node["inputs"].values()]
            assert len(set(names)) == len(names), (code, node["display_name"])


def test_the_server_gives_them_to_the_page(host):
    served = host.get("/i18n")
    for code in locales.languages():
        assert served[code]["nodeDefs"].items() >= locales.read(code).items()


SHOWN = """() => {
    const node = LiteGraph.createNode('ESDErase');
    return [node.title, node.widgets.find(w => w.name === 'steps').label, node.inputs[0].localized_name];
}"""


LATER = {"pt-BR"}
"""Languages that the page offers since 2026."""

OFFERED = "() => window.app.ui.settings.settingsLookup['Comfy.Locale'].options.map(each => each.value ?? each)"


@pytest.mark.full
def test_the_page_offers_every_language_of_ours(page):
    offered = set(page.evaluate(OFFERED))
    assert {code for code in locales.languages() if code not in offered} <= LATER
    assert LATER <= offered or not LATER & offered


@pytest.mark.full
def test_the_page_shows_the_language_that_is_set(page):
    """After a reload.  (A page of 2025 puts its own texts of a language that it offers over those of all packs.)"""
    newer = set(page.evaluate(OFFERED)) >= LATER
    try:
        for code in ("zh-TW", "tr", "pt-BR") if newer else LATER:
            names = locales.read(code)["ESDErase"]
            wanted = [names["display_name"], names["inputs"]["steps"]["name"], names["inputs"]["model"]["name"]]
            page.evaluate("code => window.app.extensionManager.setting.set('Comfy.Locale', code)", code)
            page.reload()
            browser.ready(page)
            assert page.evaluate(SHOWN) == wanted
    finally:
        page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'en')")
