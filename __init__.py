"""ESD concept erasure for ComfyUI: erase a style, an object or an attribute from a model's weights."""

from importlib.util import find_spec

if find_spec("comfy_api") is not None:  # without the host (tests, tools) there is nothing to register
    from .nodes.extension import WEB_DIRECTORY, comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
