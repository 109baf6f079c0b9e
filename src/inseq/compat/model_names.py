"""Names that code written for Inseq 0.7.1 imports from ``inseq.models``, and what they are called in ``inseq``."""

MODEL_NAMES = {
    "AttributionModel": "AttributionModel",
    "HuggingfaceDecoderOnlyModel": "AttributionModel",
    "HuggingfaceEncoderDecoderModel": "AttributionModel",
    "HuggingfaceModel": "AttributionModel",
    "list_supported_frameworks": "list_supported_frameworks",
    "load_model": "load_model",
    "register_model_config": "register_model_config",
}
