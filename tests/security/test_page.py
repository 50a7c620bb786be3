"""Words from files, prompts and names that would be scripts if the real page took them for anything but words."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from support import browser
from support.outcomes import record
from support.paths import CHECKPOINT
from support.watched_graph import graph

SCRIPTS = (
    '<img src=x onerror="window.stolen=1">',
    "<script>window.stolen=1</script>",
    "<svg onload=window.stolen=1><circle r=9 /></svg>",
    '<svg><a xlink:href="javascript:window.stolen=1"><text y=20>x</text></a></svg>',
    '[words](javascript:window.stolen=1) ![x](x"onerror=window.stolen=1 )',
    '<a href="javascript:window.stolen=1">words</a>',
    '"><iframe srcdoc="<script>parent.stolen=1</script>"></iframe>',
    "<details open ontoggle=window.stolen=1><summary>x</summary></details>",
    "<math><mtext><style><img src=x onerror=window.stolen=1></style></mtext></math>",
    "<input autofocus onfocus=window.stolen=1><video><source onerror=window.stolen=1></video>",
    '[[<img src=x onerror=window.stolen=1>|javascript:window.stolen=1]] https://x.example/"onmouseover=window.stolen=1',
    "{{constructor.constructor('window.stolen=1')()}} ${window.stolen=1} <%= stolen=1 %>",
)
ALL = " ".join(SCRIPTS)
NAME = "<img src=x onerror=window.stolen=1>"  # fits into a file's name
FOREIGN = "img[src='x'], img[src$='/x'], iframe[srcdoc], script:not([src]), a[href^='javascript'], svg[onload], details"


@pytest.fixture(scope="module")
def opened(host):
    """One page for all, in which a script that ran would leave `stolen` behind; files of hostile names and words."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    models = host.base / "models"
    (models / "esd").mkdir(exist_ok=True)
    fields = ("method", "eta", "steps", "learning_rate", "seed", "base_file", "version")
    metadata = {f"esd.{field}": f"{field} {ALL}" for field in fields}
    metadata["esd.concepts"] = json.dumps([dict.fromkeys(("erase", "erase_from", "replace_with"), ALL)])
    metadata["esd.keeps"] = json.dumps([{"prompts": list(SCRIPTS), "weight": 1}])
    layer = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.diff"
    save_file({layer: torch.full(to_k(), 0.01)}, models / "esd" / f"{NAME}.safetensors", metadata)
    shutil.copy2(models / "checkpoints" / "emoji-world.ckpt", models / "checkpoints" / f"{NAME}.ckpt")
    with browser.page_at(host.url) as page:
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i id=proof>' + arguments_ + '</i>')"
                      .replace("arguments_", json.dumps(SCRIPTS[0])))  # fmt: skip
        page.wait_for_function("window.stolen === 1")  # so the tries below can fail
        page.evaluate("() => { document.querySelector('#proof').remove(); delete window.stolen }")
        page.inherent = page.locator(FOREIGN).count()  # of the page itself
        yield page
    for path in (models / "esd" / f"{NAME}.safetensors", models / "checkpoints" / f"{NAME}.ckpt"):
        path.unlink()


def to_k():
    """The shape of that layer in the playground."""
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    return torch.load(CHECKPOINT, weights_only=True)["state_dict"][name].shape


def show(page, prompt):
    """Put a graph on the canvas, all of it in view."""
    page.evaluate("async prompt => { await window.app.loadApiJson(prompt, 'doors') }", prompt)
    page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(prompt))
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")


def press(page):
    """Queue what is shown."""
    page.evaluate("() => void window.app.queuePrompt(0, 1)")


def queue(page, host):
    """Queue what is shown, and wait for the server to be done with it."""
    before = len(host.get("/history"))
    press(page)
    for _ in range(1200):
        page.wait_for_timeout(200)
        if len(host.get("/history")) > before:
            break
    page.wait_for_timeout(1000)  # the page hears of it, and an image that fails has failed
    assert list(host.get("/history").values())[-1]["status"]["status_str"] == "success"


def clean(page):
    """No script ran, and nothing that could run one is there."""
    stolen, foreign = page.evaluate("window.stolen"), page.locator(FOREIGN).count() - page.inherent
    page.evaluate("() => document.querySelector('.p-dialog-close-button')?.click()")
    page.wait_for_function("!document.querySelector('.p-dialog')")  # one that is closing takes the next one with it
    return stolen is None and foreign <= 0


def panel(page):
    """Text and tag names of the live panel."""
    return page.evaluate("""() => {
        const root = document.querySelector('[data-esd-live]');
        const all = [...root.querySelectorAll('*')];
        return {text: root.textContent, tags: [...new Set(all.map(e => e.localName))],
                listening: all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
                words: all.flatMap(e => [e.title, e.alt ?? '']).join(' ')};
    }""")


def only_words(shown):
    """A panel that is made of its own elements alone."""
    own = {"div", "svg", "rect", "path", "text", "figure", "img", "figcaption", "button", "span"}
    return set(shown["tags"]) <= own and shown["listening"] == 0


def test_a_run_under_hostile_words(opened, host):
    """Concept, keep and the node's title; a real run with previews, watched in the panel."""
    made = graph(1)
    made["2"]["inputs"]["concept"] = ALL
    made["3"]["inputs"]["preview_every"] = 1
    made["3"]["inputs"]["keep"] = ["6", 0]
    made["6"] = {"class_type": "ESDKeep", "inputs": {"prompts": SCRIPTS[1], "weight": 1.0}}
    for node in made.values():
        node["_meta"] = {"title": ALL}
    show(opened, made)
    queue(opened, host)
    opened.wait_for_function("document.querySelector('[data-esd-live] figcaption')", timeout=120000)
    shown = panel(opened)
    assert SCRIPTS[0] in shown["text"] and SCRIPTS[1] in shown["text"] and only_words(shown) and clean(opened)
    record(
        "a training of concepts, keeps and titles that are scripts, in the real page", len(SCRIPTS), "shown as words"
    )


@pytest.mark.parametrize(
    "field",
    [
        "message",
        "state",
        "node",
        "workflow",
        "id",
        "total",
        "step",
        "losses",
        "label",
        "prompt",
        "jpeg",
        "seconds_left",
    ],
)
def test_hostile_messages_to_the_panel(opened, field):
    """As from a server that lies: one field of a run's message after the other is a script."""
    show(opened, graph(3))
    for script in (ALL, *SCRIPTS):
        message = {
            "id": "f" * 32,
            "node": "3",
            "workflow": "",
            "state": "running",
            "message": "",
            "step": 1,
            "total": 3,
        }
        message |= {"first": 0, "losses": [0.5], "seconds_left": 1.0, "passes_per_second": 2.0}
        picture = {"label": "erase", "prompt": "cat", "jpeg": ""}
        if field in picture:
            picture[field] = script
        elif field in message:
            message[field] = [script] if field == "losses" else script
        said = {**message, "previews": [picture]}
        opened.evaluate(
            "said => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('esd.run', {detail: said}))", said
        )
        opened.wait_for_timeout(50)
        shown = panel(opened)
        assert only_words(shown) and clean(opened), (field, script)
        if script == ALL and field in ("message", "label", "prompt"):
            opened.wait_for_function(
                "text => document.querySelector('[data-esd-live]').textContent.includes(text)", arg=SCRIPTS[0]
            )
    opened.evaluate("() => window.app.graph.clear()")
    record(f"scripts in the messages about a run ({field})", 1 + len(SCRIPTS), "no script ran; words are words")


def loading(file, last, **inputs):
    """A file of weights onto the playground, and a node for what comes out."""
    return {
        "1": {"class_type": "ESDLoadModel", "inputs": {"ckpt_name": f"{NAME}.ckpt"}},
        "2": {"class_type": "ESDLoadErasure", "inputs": {"file": file, "model": ["1", 0], "interpret": "auto"}},
        "3": {"class_type": last, "inputs": {"weights": ["2", 1], **inputs}},
    }


def test_a_file_with_hostile_name_and_metadata(opened, host):
    """Load Model and Load Erasure of such names, Erasure Info, and the stock node that shows texts."""
    made = loading(f"{NAME}.safetensors", "ESDErasureInfo")
    made["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}}
    made["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 1]}}
    show(opened, made)
    opened.evaluate("() => window.app.refreshComboInNodes?.()")
    queue(opened, host)
    opened.wait_for_function(
        "text => [...document.querySelectorAll('textarea')].some(area => area.value.includes(text))",
        arg=SCRIPTS[0], timeout=60000,
    )  # fmt: skip
    told = json.dumps(list(host.get("/history").values())[-1]["outputs"])
    assert all(json.dumps(script)[1:-1] in told for script in SCRIPTS) and clean(opened)
    record("files whose names and whose every field of metadata are scripts, in the real page", 11, "shown as words")


def test_what_is_drawn_and_saved_under_hostile_words(opened, host):
    """Labels of Before / After are pixels; a file's name goes to the list of results."""
    made = loading(f"{NAME}.safetensors", "ESDSaveErasure", filename_prefix=f"loras/{NAME}", format="difference")
    small = {"steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}
    inputs = {"model_before": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "prompts": "\n".join(SCRIPTS[:2]), "seed": 0}
    made["4"] = {"class_type": "ESDBeforeAfter", "inputs": {**inputs, **small, "weights": ["2", 1], "strengths": "1"}}
    made["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    show(opened, made)
    queue(opened, host)
    browser.wait_image(opened, 5)
    (saved,) = [
        f for out in list(host.get("/history").values())[-1]["outputs"].values() for f in out.get("esd_files", [])
    ]
    assert saved["filename"].startswith(NAME) and host.path_of(saved).is_file() and clean(opened)
    assert "<" not in saved["subfolder"] + saved["type"]
    record(
        "prompts of Before / After and a saved file's name that are scripts, in the real page",
        3,
        "drawn; shown as words",
    )


@pytest.mark.parametrize("where", ["before it runs", "while it runs", "from a file"])
def test_errors_with_hostile_words(opened, host, where):
    """The sentences that quote what was typed, in the page's own dialogs or panel."""
    if where == "from a file":
        bad = host.base / "models" / "esd" / f"bad{NAME}.safetensors"
        bad.write_bytes(
            (200).to_bytes(8, "little") + json.dumps({SCRIPTS[0]: {"dtype": SCRIPTS[1]}}).ljust(200).encode()
        )
        made = loading(bad.name, "ESDErasureInfo")
    else:
        made = loading(f"{NAME}.safetensors", "ESDSaveErasure", filename_prefix="loras/x", format="difference")
        if where == "before it runs":
            made["3"]["inputs"]["filename_prefix"] = f"../{SCRIPTS[0]}"
        else:
            made["4"] = {"class_type": "PrimitiveString", "inputs": {"value": f"../{SCRIPTS[0]}"}}
            made["3"]["inputs"]["filename_prefix"] = ["4", 0]
    show(opened, made)
    press(opened)
    wanted = (
        f'entry "{SCRIPTS[0]}" makes no sense' if where == "from a file" else f'"../{SCRIPTS[0]}" leaves the output'
    )
    text = browser.failure(opened, wanted)
    assert wanted in text and clean(opened), text[:500]
    record(f"refusals that quote scripts, in the page's dialog ({where})", 1, "shown as words")
