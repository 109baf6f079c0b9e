"""Attribution methods by their classes, under the import path of Inseq 0.7.1, for code that was written for it.

Here a method is a function with a name, registered with ``inseq.method``; a class says which name that is.
"""

from __future__ import annotations

from typing import Any

from inseq.errors import ArgumentError


class FeatureAttribution:
    """A method of Inseq 0.7.1, which are classes.

    Attributes:
        method_name: what the method is called, as in ``load_model(name, method_name)``.
    """

    method_name = ""

    def __init_subclass__(cls, **arguments: Any) -> None:
        if cls.__module__ != __name__:
            raise ArgumentError(
                f"{cls.__name__}: methods are no classes here. Write a function and register it with inseq.method; "
                "docs/extending.md shows one."
            )


class AttentionWeightsAttribution(FeatureAttribution):
    method_name = "attention"


class DeepLiftAttribution(FeatureAttribution):
    method_name = "deeplift"


class DiscretizedIntegratedGradientsAttribution(FeatureAttribution):
    method_name = "discretized_integrated_gradients"


class GradientShapAttribution(FeatureAttribution):
    method_name = "gradient_shap"


class InputXGradientAttribution(FeatureAttribution):
    method_name = "input_x_gradient"


class IntegratedGradientsAttribution(FeatureAttribution):
    method_name = "integrated_gradients"


class LayerDeepLiftAttribution(FeatureAttribution):
    method_name = "layer_deeplift"


class LayerGradientXActivationAttribution(FeatureAttribution):
    method_name = "layer_gradient_x_activation"


class LayerIntegratedGradientsAttribution(FeatureAttribution):
    method_name = "layer_integrated_gradients"


class LimeAttribution(FeatureAttribution):
    method_name = "lime"


class OcclusionAttribution(FeatureAttribution):
    method_name = "occlusion"


class ReagentAttribution(FeatureAttribution):
    method_name = "reagent"


class SaliencyAttribution(FeatureAttribution):
    method_name = "saliency"


class SequentialIntegratedGradientsAttribution(FeatureAttribution):
    method_name = "sequential_integrated_gradients"


class ValueZeroingAttribution(FeatureAttribution):
    method_name = "value_zeroing"
