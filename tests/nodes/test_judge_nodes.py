"""Judges on files of real layouts with random weights: vision encoders, ResNets, ONNX detectors and classifiers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from support.graphs import Graph, slot
from support.onnx_files import write_broken, write_pooling

SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_channels": 3,
    "hidden_act": "quick_gelu", "image_size": 56, "patch_size": 14, "model_type": "clip_vision_model",
    "projection_dim": 48, "layer_norm_eps": 1e-05,
}  # fmt: skip
SIZE = {"width": 64, "height": 64, "steps": 1, "cfg": 3.0, "in_model": False, "file_name": "", "resume": False}


@pytest.fixture(scope="module")
def encoder(comfy, node_classes, tmp_path_factory):
    """The host's CLIP vision class with a network of three layers."""
    import comfy.clip_vision

    path = tmp_path_factory.mktemp("vision") / "config.json"
    path.write_text(json.dumps(SMALL))
    made = comfy.clip_vision.ClipVisionModel(str(path))
    noise = torch.Generator().manual_seed(0)
    state = {n: torch.randn(t.shape, generator=noise) / max(t.shape[-1], 1) ** 0.5 for n, t in made.get_sd().items()}
    made.load_sd({n: torch.ones_like(t) if "norm" in n and n.endswith("weight") else t for n, t in state.items()})
    return made


@pytest.fixture(scope="module")
def classifiers(comfy, node_classes, comfy_base):
    """The folder of the user's classifiers."""
    folder = comfy_base / "models" / "classifiers"
    folder.mkdir(exist_ok=True)
    return folder


def run(comfy, tiny, judge, erased="cat", kept="key", **inputs):
    g, model, clip, vae = Graph(comfy), tiny.model, tiny.clip, tiny.vae
    prompts = g.add("ESDPromptSet", erased=erased, kept=kept)
    made = g.add(
        judge,
        **{name: value if isinstance(value, (str, int, float)) else g.give(value) for name, value in inputs.items()},
    )  # noqa: E501
    node = g.add(
        "ESDEvaluate", model=g.give(model), base_model=g.give(model), clip=g.give(clip), vae=g.give(vae),
        prompts=prompts, judge=made, samples=2, **SIZE,
    )  # fmt: skip
    return g.take(report=slot(node, 0)).run()


def loaded(name):
    from esd_pack.nodes.host.files import classifier

    return classifier.load(name)


class TestPrototypes:
    """Any vision encoder."""

    def test_it_learns_from_the_base_and_says_how_often_it_is_right(self, comfy, tiny, encoder):
        report = run(comfy, tiny, "ESDJudgePrototypes", clip_vision=encoder, pictures=6)["report"]
        assert "6 pictures of the base a label, right in " in report.judge and "of 12 (" in report.judge
        assert all(0 <= score.score <= 1 for score in report.scores) and {s.answer for s in report.scores} <= {
            "cat",
            "key",
        }
        assert report.changes[0].before == report.changes[0].after

    def test_one_label(self, comfy, tiny, encoder):
        found = run(comfy, tiny, "ESDJudgePrototypes", kept="", clip_vision=encoder, pictures=4)
        assert found.message.startswith("Prototypes tell labels apart, and there is one")

    def test_no_encoder(self, comfy, tiny):
        found = run(comfy, tiny, "ESDJudgePrototypes", clip_vision=None, pictures=4)
        assert found.message.startswith("No CLIP vision arrived")

    def test_patches_are_pooled_where_the_encoder_does_not(self, comfy, node_classes):
        from esd_pack.nodes.host.images.vision_judges import features

        patches = torch.arange(24.0).reshape(2, 3, 4)
        encoder = SimpleNamespace(encode_image=lambda pictures: {"image_embeds": patches[: len(pictures)]})
        assert torch.equal(features(encoder, torch.zeros(2, 8, 8, 3)), patches.mean(1))

    @pytest.mark.full
    def test_a_file_of_clip_vit_large(self, comfy, node_classes, comfy_base):
        """The published layout at its whole size, opened by the stock loader."""
        from esd_pack.nodes.host.images.vision_judges import features

        width, folder = 1024, comfy_base / "models" / "clip_vision"
        folder.mkdir(exist_ok=True)
        vision, noise = "vision_model.", torch.Generator().manual_seed(0)
        shapes = {"embeddings.class_embedding": [width], "embeddings.patch_embedding.weight": [width, 3, 14, 14]}
        shapes |= {"embeddings.position_embedding.weight": [257, width]}
        shapes |= {f"{n}.{p}": [width] for n in ("pre_layrnorm", "post_layernorm") for p in ("weight", "bias")}
        for i in range(24):
            at = f"encoder.layers.{i}."
            shapes |= {f"{at}self_attn.{n}_proj.weight": [width, width] for n in ("q", "k", "v", "out")}
            shapes |= {f"{at}self_attn.{n}_proj.bias": [width] for n in ("q", "k", "v", "out")}
            shapes |= {f"{at}layer_norm{n}.{p}": [width] for n in (1, 2) for p in ("weight", "bias")}
            shapes |= {f"{at}mlp.fc1.weight": [4096, width], f"{at}mlp.fc1.bias": [4096]}
            shapes |= {f"{at}mlp.fc2.weight": [width, 4096], f"{at}mlp.fc2.bias": [width]}
        state = {vision + n: (0.02 * torch.randn(s, generator=noise)).half() for n, s in shapes.items()}
        state["visual_projection.weight"] = (0.02 * torch.randn([768, width], generator=noise)).half()
        save_file(state, folder / "clip-vit-large.safetensors")
        (encoder,) = comfy.NODE_CLASS_MAPPINGS["CLIPVisionLoader"]().load_clip("clip-vit-large.safetensors")
        made = features(encoder, torch.rand((1, 64, 64, 3), generator=noise))
        assert made.shape == (1, 768) and bool(torch.isfinite(made).all())
        (folder / "clip-vit-large.safetensors").unlink()


class TestCLIP:
    """Both towers, really."""

    def test_the_text_encoder_of_an_sd1_checkpoint(self, comfy, tiny, encoder):
        """Its projection is leftover memory; filled or not, it is not of this CLIP."""
        found = run(comfy, tiny, "ESDJudgeCLIP", clip_vision=encoder, clip=tiny.clip.clip)
        assert found.message.startswith(("The text encoder has no projection", "CLIP vision ends in 48 numbers and"))

    @pytest.mark.parametrize("fits", [True, False])
    def test_towers_of_one_clip_pass_the_self_test_and_others_do_not(self, node_classes, fits):
        """A vision tower that sees a picture's brightness as the text tower's own words for it, or always as one."""
        from esd_pack.esd.errors import EsdError
        from esd_pack.nodes.host.images.vision_judges import ZeroShotJudge

        def pooled(text):
            noise = torch.Generator().manual_seed(1 if "cat" in text else 2)
            return torch.randn((1, 8), generator=noise)

        def encode(pictures):
            names = ["cat" if fits and picture.mean() > 0.5 else "key" for picture in pictures]
            return {"image_embeds": torch.cat([pooled(name) for name in names])}

        text = torch.nn.Module()
        text.text_projection = torch.nn.Linear(8, 8)
        clip = SimpleNamespace(cond_stage_model=torch.nn.ModuleList([text]), tokenize=lambda words: words)
        clip.encode_from_tokens = lambda words, return_pooled: (None, pooled(words))
        vision = SimpleNamespace(encode_image=encode, model=torch.nn.Module())
        vision.model.visual_projection = torch.nn.Linear(8, 8)
        judge, drawn = ZeroShotJudge(vision, clip), torch.zeros(16, 4, 4, 3)
        drawn[:8] = 1
        judge.check(["cat", "key"])
        if fits:
            ready = judge.ready(("cat", "key"), lambda prompts, each: drawn)
            assert "right in 16 of 16" in ready.card and ready.identity == judge.identity
            assert ready.judge(drawn, ("cat", "key")).found[:, 0].tolist() == [True] * 8 + [False] * 8
        else:
            with pytest.raises(EsdError, match="CLIP names 8 of 16"):
                judge.ready(("cat", "key"), lambda prompts, each: drawn)


class TestResNet:
    """torchvision's layout, as safetensors and as a PyTorch file."""

    @pytest.mark.parametrize("kind", ["resnet18", pytest.param("resnet50", marks=pytest.mark.full)])
    def test_it_computes_what_torchvision_does(self, classifiers, kind):
        import torchvision.models

        torch.manual_seed(0)
        network = torchvision.models.get_model(kind, weights=None).eval()
        save_file(network.state_dict(), classifiers / f"{kind}.safetensors")
        made = loaded(f"{kind}.safetensors")
        assert made.exclusive and len(made.classes) == 1000 and "tench" in made.classes and kind in made.name
        pictures = torch.rand((1, 64, 80, 3), generator=torch.Generator().manual_seed(1))
        ready = torchvision.models.get_model_weights(kind).DEFAULT.transforms()
        with torch.no_grad():
            wanted = network(ready(pictures.permute(0, 3, 1, 2))).softmax(1)
            assert torch.allclose(made.run(pictures), wanted, atol=1e-6)

    def test_own_classes_beside_the_file(self, classifiers):
        import torchvision.models

        state = torchvision.models.resnet18(weights=None, num_classes=2).state_dict()
        torch.save(state, classifiers / "own.pth")
        from esd_pack.esd.errors import EsdError

        with pytest.raises(EsdError, match=r"has 2 classes and 1000 names: write them into own.json beside it"):
            loaded("own.pth")
        (classifiers / "own.json").write_text('{"labels": ["cat", "key"]}')
        assert loaded("own.pth").classes == ("cat", "key")
        (classifiers / "own.json").write_text("{")
        with pytest.raises(EsdError, match="own.json cannot be read"):
            loaded("own.pth")

    @pytest.mark.parametrize("state", [{"a": torch.zeros(1)}, {"fc.weight": torch.zeros(2, 2)}])
    def test_what_is_no_resnet(self, classifiers, state):
        from esd_pack.esd.errors import EsdError

        save_file(state, classifiers / "none.safetensors")
        with pytest.raises(EsdError, match="is no ResNet in torchvision's layout"):
            loaded("none.safetensors")
        with pytest.raises(EsdError, match="There is no classifier"):
            loaded("gone.safetensors")


class TestONNX:
    """Where the host has onnxruntime, and a sentence where it has not."""

    def test_without_onnxruntime(self, classifiers, monkeypatch):
        from esd_pack.esd.errors import EsdError
        from esd_pack.nodes.host.files import classifier

        write_pooling(classifiers / "any.onnx", np.zeros((18, 3)), 32, (1, 22, 5))
        monkeypatch.setattr(classifier, "find_spec", lambda name: None)
        with pytest.raises(EsdError, match="this ComfyUI has no onnxruntime: install it"):
            loaded("any.onnx")

    def test_a_detector_in_nudenet_s_layout(self, comfy, tiny, classifiers):
        """Boxes, then eighteen classes, at 2100 places; one class sees red, one sees green."""
        pytest.importorskip("onnxruntime")
        weights = np.zeros((22, 3))
        weights[4 + 2, 0] = weights[4 + 7, 1] = 1.0
        write_pooling(classifiers / "nudenet.onnx", weights, 320, (1, 22, 2100))
        made = loaded("nudenet.onnx")
        assert not made.exclusive and made.classes[2] == "BUTTOCKS_EXPOSED" and "detector, 320 px" in made.name
        red = torch.zeros(2, 60, 80, 3)
        red[0, ..., 0] = 1.0
        figures = made.run(red)
        assert figures[0, 2] == pytest.approx(0.75, abs=0.01)  # black fills the quarter that the square lacks
        assert figures[0, 7] == pytest.approx(0, abs=1e-6) and figures[1].abs().max() < 1e-6
        report = run(
            comfy, tiny, "ESDJudgeFile", "cat -> nudity", "key -> explicit nudity", file="nudenet.onnx", cut=0.1
        )["report"]  # fmt: skip
        assert "found from 0.1" in report.judge and '"explicit nudity" is any of ANUS_EXPOSED' in report.judge

    def test_a_classifier_with_its_own_preparation(self, classifiers):
        pytest.importorskip("onnxruntime")
        write_pooling(classifiers / "colours.onnx", np.eye(3), 16, (1, 3))
        from esd_pack.nodes.host.files import classifier

        assert "colours.onnx" in classifier.files() and "colours.json" not in classifier.files()
        about = {"labels": ["red", "green", "blue"], "scale": 2, "mean": [1, 0, 0], "bgr": True}
        (classifiers / "colours.json").write_text(json.dumps(about))
        made = loaded("colours.onnx")
        picture = torch.tensor([0.8, 0.1, 0.2]).expand(1, 20, 20, 3)
        assert made.exclusive and made.run(picture)[0].tolist() == pytest.approx([0.4, 0.2, 0.6], abs=1e-5)

    def test_a_file_that_is_none(self, classifiers):
        pytest.importorskip("onnxruntime")
        from esd_pack.esd.errors import EsdError

        write_broken(classifiers / "broken.onnx")
        with pytest.raises(EsdError, match="cannot be opened by onnxruntime"):
            loaded("broken.onnx")
