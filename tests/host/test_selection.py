"""How many weights each method trains on the real shapes of SD1.x and SDXL."""

from __future__ import annotations

import pytest

from esd_pack.esd.selection import SDXL_UNET, UNET, select

SD1, SDXL = UNET, SDXL_UNET
UNETS = {
    "SD15": {
        "num_heads": 8,
        "context_dim": 768,
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "use_linear_in_transformer": False,
    },
    "SDXL": {
        "num_head_channels": 64,
        "context_dim": 2048,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
"""What the shapes of the real files say; `network` holds the host's own detection to it."""


@pytest.fixture(scope="module")
def networks(comfy):
    """SD1.5 and SDXL by name, in full size and without memory, built from what the host detects in such files."""
    import comfy.model_detection
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    def build(**config):
        return UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)

    def detected(name, config):
        shapes = build(
            image_size=32, in_channels=4, out_channels=4, model_channels=320, use_spatial_transformer=True, **config
        )
        found = comfy.model_detection.model_config_from_unet(shapes.state_dict(), "")
        assert type(found).__name__ == name
        network = build(**found.unet_config)
        assert {n: t.shape for n, t in network.state_dict().items()} == {
            n: t.shape for n, t in shapes.state_dict().items()
        }
        return network

    return {name: detected(name, config) for name, config in UNETS.items()}


PUBLISHED = [
    ("SD15", UNET, "full", 686, 859.52),
    ("SD15", UNET, "esd-x", 80, 43.96),
    ("SD15", UNET, "xattn", 80, 43.96),
    ("SD15", UNET, "esd-x-strict", 32, 19.17),
    ("SD15", UNET, "selfattn", 80, 49.57),
    ("SD15", UNET, "esd-u", 388, 815.36),
    ("SD15", UNET, "esd-all", 468, 859.32),
    ("SD15", UNET, "noxattn", 598, 813.50),
    ("SD15", UNET, "notime", 678, 857.46),
    ("SDXL", SDXL_UNET, "full", 1680, 2567.46),
    ("SDXL", SDXL_UNET, "esd-x", 350, 545.67),
    ("SDXL", SDXL_UNET, "esd-x-strict", 140, 340.79),
    ("SDXL", SDXL_UNET, "selfattn", 350, 409.68),
    ("SDXL", SDXL_UNET, "esd-u", 772, 1996.26),
    ("SDXL", SDXL_UNET, "esd-all", 1122, 2541.93),
]


@pytest.mark.parametrize(("model", "layer_names", "method", "tensors", "millions"), PUBLISHED)
def test_counts_on_the_real_shapes(networks, model, layer_names, method, tensors, millions):
    from esd_pack.nodes.host.model.network import weights_of

    sizes = {name: parameter.numel() for name, parameter in networks[model].named_parameters()}
    names = select(method, weights_of(networks[model]), layer_names)
    assert (len(names), round(sum(sizes[name] for name in names) / 1e6, 2)) == (tensors, millions)


@pytest.mark.parametrize(("method", "tensors"), [("xlayer", 10), ("selflayer", 10)])
def test_layer_methods_are_two_blocks_of_sd1(networks, method, tensors):
    from esd_pack.nodes.host.model.network import weights_of

    names = select(method, weights_of(networks["SD15"]))
    assert len(names) == tensors and len({name.split(".")[1] for name in names}) == 2
