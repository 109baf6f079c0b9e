"""What is measured: each case is an order to this package and, beside it, an order to a peer for the same work."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

N, T = 128, 64
LENGTHS = ((N, T),)
NODES, SAMPLES = 50, 50
INTERNAL_BATCH = 10
"""Nodes that Inseq's integrated gradients run at once; its default, all of them, is slower and needs far more memory."""

Order = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What a line of the tables is about.

    Attributes:
        name: group, work and model.
        shape: a random model of `models.SHAPES`, or a bundled one.
        ours: the order to this package.
        peer: the order to the peer; none where this package is measured alone.
        work: the kind of `limit.of`; empty where no limit is stated.
        count: nodes or samples, for the limit.
        attention: what both sides' models attend with; empty where each has what its own `load_model` gives.
        sampled: steps (or texts) of the peer that are run; the others' cost is extrapolated from them.
        wanted: the ratio to the peer's CPU time, and the share of the limit, that the project asks for.
        exact: whether both sides compute the same numbers.
    """

    name: str
    shape: str
    ours: Order
    peer: Order | None = None
    lengths: Sequence[tuple[int, int]] = LENGTHS
    attention: str = ""
    work: str = ""
    count: int = 1
    sampled: Sequence[int] | None = None
    wanted: tuple[float | None, float | None] = (None, None)
    exact: bool = True

    def attends(self, tool: str) -> str:
        """How a tool's model attends: `load_model` of Inseq 0.7.1 asks for eager attention, all others leave sdpa."""
        return self.attention or ("eager" if tool == "inseq" else "sdpa")

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.split("/")[0]


def six(generated: int) -> tuple[int, ...]:
    """Two steps at either end, two in the middle."""
    half = generated // 2
    return tuple(sorted({0, 1, half - 1, half, generated - 2, generated - 1}))


ENDS = (0, T // 2, T - 1)


def reach() -> Iterator[Case]:
    """The project's table of what has to be reached."""
    for shape, ratio in {"6x384": 10, "gpt2-small": 5, "llama": 5.5, "marian": 5}.items():
        for method in ("saliency", "input_x_gradient"):
            yield Case(f"reach/{method}/{shape}", shape, ours(method), inseq(method), work="gradients", wanted=(ratio, 0.8))
    for shape, ratio in {"6x384": 3.5, "gpt2-small": 1.8}.items():
        orders = [tool("attention", step_scores=[]) for tool in (ours, inseq)]
        yield Case(f"reach/attention/{shape}", shape, *orders, attention="eager", work="attention", wanted=(ratio, 0.75))
    yield Case("reach/step_scores/6x384", "6x384", ours("dummy"), inseq("dummy"), work="scores", wanted=(50, None))
    yield Case(
        "reach/span/6x384", "6x384", ours("saliency", span=True), inseq("saliency", span=True), work="span", wanted=(60, None)
    )
    for shape, ratio in {"6x384": 17, "llama": 11}.items():
        orders = [tool("value_zeroing", step_scores=[]) for tool in (ours, inseq)]
        yield Case(
            f"reach/value_zeroing/{shape}", shape, *orders, attention="eager", work="value_zeroing", wanted=(ratio, 0.6)
        )
    for shape, ratio, share in (("6x384", 130, 0.78), ("gpt2-small", 87, 0.86)):
        orders = [tool("lime", n_samples=SAMPLES) for tool in (ours, inseq)]
        wanted_here = (ratio, share)
        yield Case(
            f"reach/lime/{shape}", shape, *orders, work="samples", count=SAMPLES, sampled=ENDS, wanted=wanted_here, exact=False
        )
    for shape, ratio in {"6x384": 165, "llama": 115}.items():
        yield Case(
            f"reach/occlusion/{shape}",
            shape,
            ours("occlusion"),
            inseq("occlusion"),
            work="occlusion",
            sampled=ENDS,
            wanted=(ratio, 0.78),
        )
    lengths = unequal(32)
    chosen = sorted(range(32), key=lambda i: lengths[i][1] * (2 * lengths[i][0] + lengths[i][1]))[4::8]
    yield Case(
        "reach/texts/6x384",
        "6x384",
        ours("saliency"),
        inseq("saliency"),
        lengths=lengths,
        work="gradients",
        sampled=chosen,
        wanted=(8, None),
    )
    for shape, ratio in {"6x384": 5.5, "gpt2-small": 3}.items():
        peer = inseq("integrated_gradients", n_steps=NODES, internal_batch_size=INTERNAL_BATCH)
        yield Case(
            f"reach/integrated_gradients/{shape}",
            shape,
            ours("integrated_gradients", n_steps=NODES),
            peer,
            work="gradients",
            count=NODES,
            sampled=ENDS,
            wanted=(ratio, 0.85),
        )


def body() -> Iterator[Case]:
    """What needs a forward and no vocabulary matrix, against that forward by the model's own code."""
    for shape in ("6x384", "gpt2-small"):
        orders = ours("attention", step_scores=[]), {"tool": "body", "method": "body"}
        yield Case(f"body/attention/{shape}", shape, *orders, attention="eager", exact=False)


def refined() -> Iterator[Case]:
    """Integrated gradients with as many nodes as the tokens need, against fixed ones of the peer and ours; bundled models."""
    for shape in ("demo/zh-en", "demo/gpt2"):
        order = ours("integrated_gradients", n_steps=NODES, tolerance=0.01)
        name = f"refined/{shape.removeprefix('demo/')}"
        yield Case(name, shape, order, inseq("integrated_gradients", n_steps=NODES), wanted=(8, None), exact=False)
        yield Case(f"{name}/own", shape, order, ours("integrated_gradients", n_steps=NODES), exact=False)


def sdpa() -> Iterator[Case]:
    """A model that was loaded by its user, with the fused attention that transformers takes of itself, given to both."""
    for shape in ("6x384", "gpt2-small", "llama", "marian"):
        orders = ours("saliency"), inseq("saliency")
        yield Case(f"sdpa/saliency/{shape}", shape, *orders, attention="sdpa", work="gradients")


def captum() -> Iterator[Case]:
    """captum's wrappers for language models. They explain log-probabilities, and the prompt's tokens alone get scores."""
    for shape in ("6x384", "llama"):
        for method in ("input_x_gradient", "occlusion"):
            order = ours(method, logprob=True, **({"granular": False} if method == "input_x_gradient" else {}))
            yield Case(
                f"captum/{method}/{shape}", shape, order, {"tool": "captum", "method": method}, exact=method == "occlusion"
            )


def growth() -> Iterator[Case]:
    """How the cost grows with the prompt and with what is generated; the peer on one model and where its steps are short."""
    for method, work, sampled in (("saliency", "gradients", six), ("occlusion", "occlusion", None)):
        for n, t in product((16, 128, 512), (16, 64, 128)):
            peer = inseq(method) if sampled else None
            steps = sampled(t) if sampled else None
            name = f"growth/{method}/{n}-{t}"
            yield Case(name, "6x384", ours(method), peer, lengths=((n, t),), work=work, sampled=steps)
    for shape in ("llama", "marian", "gpt2-small"):
        for n, t in product((16, 128, 512), (16, 64, 128)):
            yield Case(f"growth/saliency-{shape}/{n}-{t}", shape, ours("saliency"), lengths=((n, t),), work="gradients")


def memory() -> Iterator[Case]:
    """Peaks: reduced saliency against one plain forward and backward of the same length; nodes that do not add up."""
    for shape in ("6x384", "thin"):
        order = ours("saliency", granular=False)
        plain = {"tool": "plain", "method": "plain"}
        yield Case(f"memory/saliency/{shape}", shape, order, plain, lengths=((512, 512),), exact=False)
    for nodes in (10, 50, 200):
        order = ours("integrated_gradients", n_steps=nodes, granular=False)
        yield Case(f"memory/integrated_gradients/{nodes}", "6x384", order, lengths=((64, 8),))


def call() -> Iterator[Case]:
    """What a call costs beside the arithmetic."""
    for method in ("saliency", "occlusion", "dummy"):
        yield Case(f"call/{method}", "tiny", ours(method), inseq(method), lengths=((8, 4),))


GRADIENTS = ("last_layer", "saved_slopes", "beginnings", "batched_products")
SCORES = ("streamed_predictions", "early_end")
ACCELERATED = {
    **dict.fromkeys(("saliency", "input_x_gradient", "integrated_gradients"), GRADIENTS),
    "lime": SCORES,
    "occlusion": (*SCORES, "cache_reuse"),
    "value_zeroing": ("zeroing_shortcut",),
}
"""The accelerators that a method goes through."""


def switched_off(case: Case) -> Iterator[Case]:
    """A case beside itself with each of its accelerators turned off: the ratio is what that one buys."""
    for name in ACCELERATED.get(case.ours["method"], ()):
        off = {**case.ours, "without": name}
        yield replace(case, name=f"{case.name} without {name}", peer=off, sampled=None, attention=case.attends("inseq"))


GROUPS = {each.__name__: each for each in (reach, sdpa, captum, body, refined, growth, memory, call)}


def every() -> list[Case]:
    """All cases, cheap groups of work first."""
    return [case for group in GROUPS.values() for case in group()]


def ours(method: str, span: bool = False, step_scores: Sequence[str] = ("probability",), **options: Any) -> Order:
    """An order to this package; a span takes all generated tokens at once."""
    return {"tool": "ours", "method": method, "options": options, "span": span, "step_scores": list(step_scores)}


def inseq(method: str, span: bool = False, step_scores: Sequence[str] = ("probability",), **options: Any) -> Order:
    """An order to Inseq 0.7.1."""
    return {"tool": "inseq", "method": method, "options": options, "span": span, "step_scores": list(step_scores)}


def unequal(n: int) -> list[tuple[int, int]]:
    """Lengths of prompts and of what follows them, drawn from one seed."""
    drawn = random.Random(0)
    return [(drawn.randint(16, 128), drawn.randint(16, 64)) for _ in range(n)]
