"""The list of nodes, as the host asks for it."""

from comfy_api.latest import ComfyExtension, io

from .apply import ESDApply
from .compare import ESDBeforeAfter
from .concept import ESDConcept, ESDKeep
from .erase import ESDErase, ESDEraseSettings
from .host import live, runs
from .info import ESDErasureInfo
from .load import ESDLoadModel
from .load_erasure import ESDLoadErasure
from .save import ESDSaveCheckpoint, ESDSaveErasure

WEB_DIRECTORY = "./web"


class EsdExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of the menu; before that, what the page may ask for, and a sweep of leftovers."""
        live.add_routes()
        runs.sweep()
        return [
            ESDLoadModel,
            ESDConcept,
            ESDKeep,
            ESDErase,
            ESDEraseSettings,
            ESDApply,
            ESDLoadErasure,
            ESDErasureInfo,
            ESDSaveCheckpoint,
            ESDSaveErasure,
            ESDBeforeAfter,
        ]


async def comfy_entrypoint() -> EsdExtension:
    """What the host calls."""
    return EsdExtension()
