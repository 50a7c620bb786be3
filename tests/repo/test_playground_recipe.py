"""How the playground is made: every stage for a few steps on a few icons of our own, and what comes out of it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands.playground import world as shipped
from lab.launch import arguments
from lab.playground.recipe import captions, diffusion, icons, layouts, measure, pack, sheet, stages, world_spec
from lab.playground.recipe.autoencoder import SCALE, Autoencoder
from lab.playground.recipe.denoiser import WIDTH, Denoiser
from lab.playground.recipe.training import Plan
from support.outcomes import record

pytestmark = pytest.mark.nightly

SHAPES = {
    "ball": '<circle cx="16" cy="16" r="14" fill="FILL"/>',
    "box": '<path d="M4 4h24v24H4z" fill="FILL"/>',
    "tent": '<path d="M16 2 30 30H2z" fill="FILL"/>',
}
FILLS = {"noto": "#e33", "fluent": "#39f", "ink": "currentColor"}
WORLD = world_spec.World({name: name for name in SHAPES}, ("noto", "fluent", "ink", "sepia"), ("white", "blue"))
FEW = Plan(steps=4, batch=8, rate=1e-3, warm_up=2, seed=7)
TRAINED = ("autoencoder", "judge", "second-judge", "denoiser")


def _set(style: str) -> dict[str, Any]:
    drawn = {name: {"body": body.replace("FILL", FILLS[style])} for name, body in SHAPES.items()}
    return {"prefix": style, "width": 32, "height": 32, "icons": drawn, "aliases": {"cube": {"parent": "box"}}}


def _shop(comfy_path: Path, folder: Path, layout: layouts.Layout) -> stages.Build:
    plans = {"autoencoder": FEW, "judge": FEW, "second_judge": FEW, "denoiser": replace(FEW, average=0.9)}
    sets = {style: _set(style) for style in FILLS}
    tokenizer = comfy_path / "comfy" / "sd1_tokenizer"
    few = {"many": 2, "reconstructions": 64, **plans}
    return stages.Build(WORLD, folder, tokenizer, lambda stage, done, total: None, layout, sets=sets, **few)


@pytest.fixture(scope="module", params=layouts.LAYOUTS.values(), ids=layouts.LAYOUTS)
def made(request: pytest.FixtureRequest, comfy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> stages.Build:
    """All stages, run to their end."""
    build = _shop(comfy_path, tmp_path_factory.mktemp("made"), request.param)
    assert [stage(build) for stage in stages.STAGES.values()] == [True] * 6
    return build


def test_a_stopped_stage_goes_on_bit_for_bit(made: stages.Build, tmp_path: Path) -> None:
    """Each training is stopped after two of its four steps, and taken up by another start."""
    build = replace(made, folder=tmp_path)
    shutil.copy(made.path("pictures.safetensors"), tmp_path)
    stopped = replace(build, stop_after=2)
    for stage in TRAINED:
        assert not stages.STAGES[stage](stopped) and not build.path(f"{stage}.safetensors").exists()
        assert stages.STAGES[stage](build)
        ours, theirs = (load_file(each.path(f"{stage}.safetensors")) for each in (build, made))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    others = replace(WORLD, backgrounds=("white", "green"))
    for other in (replace(build, denoiser=FEW), replace(build, world=others)):
        with pytest.raises(ValueError, match="begun with other settings, objects or networks"):
            stages.train_denoiser(other)
    record("a stage of the playground's making is stopped and started again", 4, "its tensors are equal bit for bit")


def test_a_stage_asks_for_those_before_it(made: stages.Build, tmp_path: Path) -> None:
    """In words, not by a missing file's name alone."""
    for stage in ("autoencoder", "judge", "denoiser", "pack"):
        with pytest.raises(ValueError, match="run the stages before this one first"):
            stages.STAGES[stage](replace(made, folder=tmp_path))


def test_what_does_not_belong_together_is_refused(made: stages.Build, tmp_path: Path) -> None:
    """Pictures of other objects, a denoiser of another encoder's latents, lists that are no world."""
    with pytest.raises(ValueError, match="shows other objects"):
        replace(made, world=replace(WORLD, objects={**WORLD.objects, "tent": "box"})).pool()
    for file in ("denoiser.safetensors", "autoencoder.safetensors"):
        shutil.copy(made.path(file), tmp_path)
    other = load_file(made.path("autoencoder.safetensors"))
    save_file({name: value + 1 for name, value in other.items()}, tmp_path / "autoencoder.safetensors")
    with pytest.raises(ValueError, match="learnt with another encoder"):
        stages.pack_checkpoint(replace(made, folder=tmp_path))
    known = WORLD.as_json()
    for wrong, why in (({"objects": ["cat"]}, "is no world"), ({"held_out_from": "unicorn"}, "none of its objects")):
        (tmp_path / "world.json").write_text(json.dumps(known | wrong), "utf-8")
        with pytest.raises(ValueError, match=why):
            world_spec.read(tmp_path / "world.json")


def test_the_stock_nodes_open_and_draw_what_was_made(made: stages.Build, comfy: Any, comfy_base: Path) -> None:
    """Load Checkpoint, CLIP Text Encode, KSampler, VAE Decode; the narrow networks draw the same picture."""
    layout, known, checkpoint = made.layout, made.layout.shipped, made.path(made.layout.checkpoint)
    shutil.copy(checkpoint, comfy_base / "models" / "checkpoints" / "made.ckpt")
    run = comfy.NODE_CLASS_MAPPINGS
    with torch.inference_mode():
        model, clip, vae = run["CheckpointLoaderSimple"]().load_checkpoint("made.ckpt")[:3]
        asked, empty = (run["CLIPTextEncode"]().encode(clip, words)[0] for words in ("ball in ink style", ""))
        latent = run["EmptyLatentImage"]().generate(64, 64, 1)[0]  # the sampler gives it the model's channels
        sampling = (layout.steps, known.cfg, known.sampler, known.scheduler, asked, empty, latent)
        drawn = run["VAEDecode"]().decode(vae, run["KSampler"]().sample(model, 5, *sampling)[0])[0]
    tokens = captions.tokens(["ball in ink style", ""], made.tokenizer)
    ours = layout.painter_of(checkpoint).draw(tokens[:1], tokens[1], seed=5)
    assert drawn.shape == ours.shape == (1, 64, 64, 3) and drawn.std() > 0
    torch.testing.assert_close(ours, drawn, atol=2e-3, rtol=0)


def test_what_was_made_is_judged(made: stages.Build) -> None:
    """Every prompt counts in each head that it names something for; the sheet has all objects and styles."""
    assert measure.main(made) and sheet.main(made)
    measured = json.loads(made.path("measured.json").read_text("utf-8"))
    assert measured["prompts"] == 12 + 12 + 24 and measured["found"].keys() == {"judge", "second judge"}
    groups = measured["found"]["judge"]
    assert list(groups["object, style and background named"]) == ["object", "style", "background"]
    assert " of 24 (" in groups["object, style and background named"]["background"]
    assert made.path("contact-sheet.jpg").stat().st_size > 1000
    assert world_spec.read(made.path("world.json")) == WORLD


def test_narrow_and_padded_networks_agree() -> None:
    """To 1e-6, with weights at random: zeros change nothing."""
    torch.manual_seed(0)
    narrow, wide, vae = Denoiser().double(), Denoiser(WIDTH).double(), Autoencoder()
    for name, value in pack.padded(narrow.state_dict(), pack.shapes_of(wide)).items():
        wide.get_parameter(name).data = value.double()
    assert {n: t.shape for n, t in pack.cut(wide.state_dict(), pack.shapes_of(narrow)).items()} == pack.shapes_of(
        narrow
    )
    x, levels, context = torch.randn(3, 4, 8, 8).double(), torch.tensor([1, 500, 999]), torch.randn(3, 77, 768).double()
    with torch.no_grad():
        torch.testing.assert_close(narrow(x, levels, context), wide(x, levels, context), atol=1e-6, rtol=0)
    shapes = pack.wide_shapes()[1]
    padded = pack.padded(vae.state_dict(), shapes)
    assert padded.keys() == shapes.keys() > pack.shapes_of(vae).keys()


def test_the_host_sees_what_the_narrow_networks_see(playground: Any, made: stages.Build) -> None:
    """The shipped checkpoint in the host against its narrow networks: UNet, autoencoder and text tower."""
    model, clip, vae = playground
    painter = layouts.SD1.painter_of(shipped.CHECKPOINT)
    words = ["face wearing a halo in sepia style on a pink background", "cat", ""]
    context = painter.tower(captions.tokens(words, made.tokenizer))
    x, levels = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 990])
    pictures = torch.rand(2, 64, 64, 3)
    with torch.inference_mode():
        for row, prompt in zip(context, words, strict=True):
            seen = clip.encode_from_tokens(clip.tokenize(prompt))
            torch.testing.assert_close(row[None], seen, atol=1e-5, rtol=0)
        host = model.model.diffusion_model.float()(x, levels, context=context)
        torch.testing.assert_close(painter.denoiser(x, levels, context), host, atol=1e-5, rtol=0)
        there = painter.autoencoder.encode(pictures.permute(0, 3, 1, 2))
        torch.testing.assert_close(there, vae.encode(pictures) * SCALE, atol=1e-4, rtol=0)


@pytest.mark.parametrize("words", [["face wearing a halo in sepia style", "cat", ""], ["cat", "cat"]])
def test_contexts_may_come_with_their_common_end_apart(made: stages.Build, words: list[str]) -> None:
    """The denoiser's answer is the same, whether they differ in many tokens or in none."""
    tower, tokens = captions.text_tower(), captions.tokens(words, made.tokenizer)
    context, x, levels = (
        tower.split_shared_suffix(tokens),
        torch.randn(len(words), 4, 8, 8),
        torch.full((len(words),), 500),
    )
    assert context.own.shape[1] + len(context.shared) == captions.LENGTH and context.own.shape[1] < 10
    with torch.no_grad():
        network = Denoiser()
        torch.testing.assert_close(network(x, levels, context), network(x, levels, tower(tokens)))


def test_a_checkpoint_packed_again_is_the_same_file(made: stages.Build) -> None:
    """Byte for byte."""
    before = made.path(made.layout.checkpoint).read_bytes()
    assert stages.pack_checkpoint(made) and made.path(made.layout.checkpoint).read_bytes() == before


def test_what_is_held_out_is_never_shown() -> None:
    """Neither in a picture nor, therefore, in a caption; and every other combination may be."""
    world = world_spec.read()
    objects, allowed = list(world.objects), diffusion.allowed(world)
    parts = [tuple(heads[i] for heads, i in zip(world.heads.values(), row, strict=True)) for row in allowed.tolist()]
    held = set(world.combinations(held_out=True))
    assert held and not held & set(parts)
    assert len(held) + len(parts) == len(world.objects) * len(world.styles) * len(world.backgrounds)
    assert {name for name, style, _ in held if style == "sepia"} > {"peach"}
    assert {parts[0] for parts in held} == {*world.objects} - {*objects[: objects.index(world.held_out_from)]}


def test_captions_leave_parts_out_and_find_their_tokens() -> None:
    """Each caption names a part of what is shown, or nothing, and its row holds just that."""
    world, random = world_spec.read(), torch.Generator().manual_seed(0)
    written = captions.all_captions(world)
    shown = diffusion.allowed(world)[:2000]
    named = captions.with_parts_left_out(shown, world.backgrounds.index("white"), random)
    assert ((named == shown) | (named == -1)).all()
    for row, parts in zip(captions.row_of(world, named).tolist(), named.tolist(), strict=True):
        words = ["" if i < 0 else heads[i] for heads, i in zip(world.heads.values(), parts, strict=True)]
        assert written[row] == captions.caption(*words)
    assert captions.caption("cat", "ink", "blue") == shipped.object_prompt("cat", "ink", "blue")
    assert {captions.caption("", "ink", "blue"), captions.caption("", "", "blue")} == {
        "ink style on a blue background",
        "blue background",
    }
    assert 0.1 < (named < 0).all(1).float().mean() < 0.2


def test_the_shipped_world_is_the_recipes() -> None:
    """What is made is what is shipped, name by name; a world that holds nothing out has no such combinations."""
    world = world_spec.read()
    assert world.heads == shipped.HEADS and world.near_neighbours == shipped.NEAR_NEIGHBOURS
    assert not list(replace(world, held_out_from="").combinations(held_out=True))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[icons.Package]:
    """A registry on this machine that has one small package."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        content = json.dumps(_set("ink")).encode()
        entry = tarfile.TarInfo("package/icons.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    package = icons.Package("@icons/few", "1.0.0", f"sha512-{digest}")
    served = tmp_path / "served" / package.path
    served.parent.mkdir(parents=True)
    served.write_bytes(packed.getvalue())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path / "served"))

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        yield package
        server.shutdown()


def test_icons_come_from_the_registry_that_is_set_up(registry: icons.Package, tmp_path: Path) -> None:
    """Fetched once, checked each time, read from the archive; another content is refused and not kept."""
    archive = icons.fetch(registry, tmp_path / "kept")
    found = icons.read(archive)
    assert icons.svg(found, "cube") == icons.svg(found, "box") and 'color="#111"' in icons.svg(found, "box")
    with pytest.raises(ValueError, match='has no "cat"'):
        icons.svg(found, "cat")
    other = replace(registry, integrity="sha512-AAAA")
    with pytest.raises(ValueError, match="not @icons/few 1.0.0 as it was published"):
        icons.fetch(other, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it"):
        icons.fetch(registry, tmp_path / "kept")
    record("an icon package has not the published content", 2, "refused in one sentence, nothing kept")


def test_the_command_knows_its_stages() -> None:
    """A wrong one is named before anything is set up."""
    from lab.playground.recipe import command

    assert tuple(command.ALL) == arguments.STAGES
    assert "no stage" in arguments.stages_problem(["pack", "unpack"]) and not arguments.stages_problem(["pack"])
    options = arguments.playground_parser().parse_args(["pack", "--steps", "10"])
    build = command.workshop(options, lambda stage, done, total: None)
    assert {build.judge.steps, build.denoiser.steps, build.denoiser.warm_up} == {10, 5}
    assert build.folder.name == "world" and build.ready is None
