"""Write the sample files beside this script, with the data classes of the published Inseq and random scores.

python write_samples.py 0.7.1      # in an environment with that version of Inseq, not with this package
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from inseq.data.attribution import (
    CoarseFeatureAttributionSequenceOutput,
    FeatureAttributionOutput,
    GranularFeatureAttributionSequenceOutput,
    MultiDimensionalFeatureAttributionSequenceOutput,
)
from inseq.utils.typing import TokenWithId

HERE = Path(__file__).parent
VERSION = sys.argv[1]
SOURCE, TARGET = ["▁Hello", "▁world", "</s>"], ["<pad>", "▁Hal", "lo", "</s>"]
PROMPT = ["The", "Ġsky"]


def tokens(pieces: list[str]) -> list[TokenWithId]:
    return [TokenWithId(piece, 10 + i) for i, piece in enumerate(pieces)]


def prefix(scores: torch.Tensor, start: int) -> torch.Tensor:
    """Mark what is not yet written, as Inseq does."""
    for step in range(scores.shape[1]):
        scores[start + step :, step] = float("nan")
    return scores


def output(*sequences: Any) -> FeatureAttributionOutput:
    info = {
        "attribution_method": "saliency",
        "model_name": "tiny",
        "constrained_decoding": True,
        "exec_time": 0.5,
        "input_texts": ["Hello world"] * len(sequences),
        "generated_texts": ["Hallo"] * len(sequences),
        "step_scores": ["probability"],
    }
    return FeatureAttributionOutput(list(sequences), None, info)


def sequence(kind: Any, *extra: int, decoder_only: bool = False, **more: Any) -> Any:
    torch.manual_seed(0)
    source = tokens(PROMPT if decoder_only else SOURCE)
    target = tokens([*PROMPT, "Ġis", "Ġblue"] if decoder_only else TARGET)
    start = 2 if decoder_only else 1
    steps = len(target) - start
    return kind(
        source=source,
        target=target,
        source_attributions=None if decoder_only else torch.randn(len(source), steps, *extra),
        target_attributions=prefix(torch.randn(len(target), steps, *extra), start),
        step_scores={"probability": torch.rand(steps)},
        sequence_scores=more.pop("sequence_scores", {}),
        attr_pos_start=start,
        attr_pos_end=len(target),
        **more,
    )


def write(name: str, out: FeatureAttributionOutput, **options: Any) -> None:
    numbers = [
        {
            field: None if (values := getattr(s, field)) is None else torch.nan_to_num(values, nan=-99.0).tolist()
            for field in ("source_attributions", "target_attributions")
        }
        | {"step_scores": {key: values.tolist() for key, values in s.step_scores.items()}}
        | {"aggregated": torch.nan_to_num(s.aggregate().target_attributions, nan=-99.0).tolist()}
        for s in out.sequence_attributions
    ]
    path = HERE / f"{VERSION}-{name}.json{'.gz' if options.get('compress') else ''}"
    out.save(path, overwrite=True, **options)
    (HERE / f"{VERSION}-{name}.expected").write_text(json.dumps(numbers))


granular = GranularFeatureAttributionSequenceOutput
write("granular", output(sequence(granular, 3)))
write("decoder", output(sequence(granular, 3, decoder_only=True)))
write("coarse", output(sequence(CoarseFeatureAttributionSequenceOutput)), ndarray_compact=False)
many = MultiDimensionalFeatureAttributionSequenceOutput
encoder = {"encoder_self_attentions": torch.rand(3, 3, 2, 2)}
write("heads", output(sequence(many, 2, 2, sequence_scores=encoder, _num_dimensions=2)), compress=True)
write("primitives", output(sequence(granular, 3)), use_primitives=True)
if VERSION.startswith("0.7"):
    write("float16", output(sequence(granular, 3)), scores_precision="float16")
    write("float8", output(sequence(granular, 3)), scores_precision="float8")
if len(sys.argv) > 2:
    import inseq

    model = inseq.load_model(sys.argv[2], "occlusion")
    texts = ("我喜欢猫。", "I like cats.")
    options = {"attribute_target": True, "step_scores": ["probability"], "show_progress": False}
    window = {"attr_pos_start": 2, "attr_pos_end": 3}
    for name, more in {
        "whole": {},
        "window": window,
        "sources": window | {"attribute_target": False},
        "steps": {"output_step_attributions": True},
    }.items():
        found = model.attribute(*texts, **options | more)
        found.save(HERE / f"{VERSION}-{name}.json.gz", overwrite=True, compress=True)
