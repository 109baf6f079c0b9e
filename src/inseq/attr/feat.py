"""Names under the import path of Inseq 0.7.1, for code that was written for it."""

from inseq.compat.methods import AttentionWeightsAttribution as AttentionWeightsAttribution
from inseq.compat.methods import DeepLiftAttribution as DeepLiftAttribution
from inseq.compat.methods import DiscretizedIntegratedGradientsAttribution as DiscretizedIntegratedGradientsAttribution
from inseq.compat.methods import FeatureAttribution as FeatureAttribution
from inseq.compat.methods import GradientShapAttribution as GradientShapAttribution
from inseq.compat.methods import InputXGradientAttribution as InputXGradientAttribution
from inseq.compat.methods import IntegratedGradientsAttribution as IntegratedGradientsAttribution
from inseq.compat.methods import LayerDeepLiftAttribution as LayerDeepLiftAttribution
from inseq.compat.methods import LayerGradientXActivationAttribution as LayerGradientXActivationAttribution
from inseq.compat.methods import LayerIntegratedGradientsAttribution as LayerIntegratedGradientsAttribution
from inseq.compat.methods import LimeAttribution as LimeAttribution
from inseq.compat.methods import OcclusionAttribution as OcclusionAttribution
from inseq.compat.methods import ReagentAttribution as ReagentAttribution
from inseq.compat.methods import SaliencyAttribution as SaliencyAttribution
from inseq.compat.methods import SequentialIntegratedGradientsAttribution as SequentialIntegratedGradientsAttribution
from inseq.compat.methods import ValueZeroingAttribution as ValueZeroingAttribution
