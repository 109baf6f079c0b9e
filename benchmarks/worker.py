"""One side of a comparison: attributes with whichever `inseq` its environment has, one JSON line per order.

Read from standard input, answered on standard output:

    {"do": "build", "shape": {"n_layer": 6, ...}, "prompt": 128, "generated": 64}
    {"do": "attribute", "method": "saliency", "options": {}, "window": [0, 64]}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import inseq

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
VERSION = getattr(inseq, "__version__", None) or version("inseq")
PEER = VERSION.startswith("0.")
QUIET: dict[str, Any] = {"show_progress": False, **({"pretty_progress": False} if PEER else {})}


def word_tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with a word for each id: `w7` is 7."""
    vocabulary = {SPECIAL[i] if i < len(SPECIAL) else f"w{i}": i for i in range(size)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def random_model(shape: dict[str, Any]) -> transformers.GPT2LMHeadModel:
    """Weights from one seed; larger than at the start of training, so that no layer is nearly linear."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=1, pad_token_id=2, **shape)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.02 * torch.randn(weight.shape))
            elif "wte" not in name and "wpe" not in name:
                weight.mul_(2)
    return model


class Calls:
    """Counts a model's forwards and the token positions in them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forwards = self.tokens = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args]
        shape = next(each for each in given if each is not None).shape
        self.forwards += 1
        self.tokens += shape[0] * shape[1]


class Subject:
    """A model of random weights, and a random text to explain."""

    def __init__(self, shape: dict[str, Any], prompt: int, generated: int) -> None:
        self.model = random_model(shape)
        self.tokenizer = word_tokenizer(self.model.config.vocab_size)
        self.calls = Calls(self.model)
        self.n_prompt = prompt
        drawn = torch.Generator().manual_seed(1)
        ids = torch.randint(len(SPECIAL), self.model.config.vocab_size, (prompt + generated,), generator=drawn)
        words = [f"w{i}" for i in ids.tolist()]
        self.prompt, self.text = " ".join(words[:prompt]), " ".join(words)
        self.loaded: dict[str, Any] = {}

    def attribute(self, method: str, options: dict[str, Any], window: tuple[int, int]) -> dict[str, Any]:
        """Explain the generated tokens of a window, and say what it cost."""
        if method not in self.loaded:
            self.loaded[method] = inseq.load_model(self.model, method, tokenizer=self.tokenizer)
        start, end = (self.n_prompt + position for position in window)
        before = self.calls.forwards, self.calls.tokens
        out, cost = measured(
            lambda: self.loaded[method].attribute(
                input_texts=[self.prompt],
                generated_texts=[self.text],
                step_scores=["probability"],
                attr_pos_start=start,
                attr_pos_end=end,
                **QUIET,
                **options,
            )
        )
        found = out.sequence_attributions[0]
        counted = {"forwards": self.calls.forwards - before[0], "tokens": self.calls.tokens - before[1]}
        scores = token_scores(found.target_attributions, start)
        return {**cost, **counted, "scores": scores, "probabilities": found.step_scores["probability"].tolist()}


def token_scores(granular: Tensor, start: int) -> list[list[float]]:
    """For each step the Euclidean norms over the embedding of its prefix's scores."""
    norms = granular.double().norm(dim=-1) if granular.ndim > 2 else granular.double()
    return [norms[: start + k, k].tolist() for k in range(norms.shape[1])]


def measured(act: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run something; CPU and wall seconds, resident memory before and at its peak in MiB."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    idle = resident("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    result = act()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu": cpu, "wall": wall, "idle": idle, "peak": resident("VmHWM")}


def resident(field: str) -> float:
    """A field of the process's status in MiB; 0 where there is none to read."""
    with suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))
    return 0.0


def answer(order: dict[str, Any], subject: Subject | None) -> tuple[dict[str, Any], Subject | None]:
    """Carry out one order."""
    if order["do"] == "build":
        subject = Subject(order["shape"], order["prompt"], order["generated"])
        digest = sum(weight.double().abs().sum().item() for weight in subject.model.parameters())
        known = {"inseq": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
        return {"weights": digest, "versions": known}, subject
    assert subject is not None, "build comes before attribute"
    return subject.attribute(order["method"], order["options"], order["window"]), subject


def main() -> None:
    """Serve orders until standard input ends; nothing else may write to standard output."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    lines, sys.stdout = sys.stdout, sys.stderr
    subject = None
    for line in sys.stdin:
        reply, subject = answer(json.loads(line), subject)
        print(json.dumps(reply), file=lines, flush=True)


if __name__ == "__main__":
    main()
