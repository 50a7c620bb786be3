"""The list of nodes, as the host asks for it."""

from comfy_api.latest import ComfyExtension, io

from .apply import ESDApply
from .attack import ESDAttack
from .compare import ESDBeforeAfter
from .compare_reports import ESDCompareReports
from .concept import ESDConcept
from .contexts import ESDContexts
from .erase import ESDErase
from .erase_settings import ESDEraseSettings
from .erasure_info import ESDErasureInfo
from .evaluate import ESDEvaluate
from .host.run import cleanup, status
from .judges import ESDJudgeBaseModel, ESDJudgeCLIP, ESDJudgeFile, ESDJudgePlayground, ESDJudgePrototypes
from .keep import ESDKeep
from .load_erasure import ESDLoadErasure
from .load_model import ESDLoadModel
from .measure import ESDMeasure
from .merge import ESDMergeErasures
from .prompt_set import ESDPromptSet
from .safe_latent_diffusion import ESDSafeLatentDiffusion
from .sample_set import ESDSampleSet
from .save_checkpoint import ESDSaveCheckpoint
from .save_erasure import ESDSaveErasure
from .score import ESDScore
from .unified_concept_editing import ESDUnifiedConceptEditing

WEB_DIRECTORY = "./web"


class EsdExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of the menu; before that, what the page may ask for, and a sweep of leftovers."""
        status.add_routes()
        cleanup.delete_partials()
        return [
            ESDLoadModel,
            ESDConcept,
            ESDContexts,
            ESDKeep,
            ESDErase,
            ESDEraseSettings,
            ESDApply,
            ESDLoadErasure,
            ESDErasureInfo,
            ESDMergeErasures,
            ESDSaveCheckpoint,
            ESDSaveErasure,
            ESDBeforeAfter,
            ESDMeasure,
            ESDAttack,
            ESDPromptSet,
            ESDJudgeBaseModel,
            ESDJudgePrototypes,
            ESDJudgeCLIP,
            ESDJudgeFile,
            ESDJudgePlayground,
            ESDEvaluate,
            ESDSampleSet,
            ESDScore,
            ESDCompareReports,
            ESDSafeLatentDiffusion,
            ESDUnifiedConceptEditing,
        ]


async def comfy_entrypoint() -> EsdExtension:
    """Return the extension, as the host asks."""
    return EsdExtension()
