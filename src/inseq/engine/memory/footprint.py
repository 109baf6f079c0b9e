"""How many bytes a measurement takes, found by counting the tensors of small ones."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inseq.engine.batches import pack
from inseq.engine.budget import Budget
from inseq.engine.gradients.batch import has_beginnings
from inseq.engine.jobs import Job
from inseq.engine.measures import Counters, Measures, RunContext
from inseq.engine.rules.blocks import BLOCK, splits
from inseq.engine.scores.head import prepare_head
from inseq.models.adapter import Adapter
from inseq.models.guest import UndoList, is_out_of_memory
from inseq.requests import Attended, Capture, Gradient, Original, Prediction, Replay, Request, Rescale, Target

LENGTHS = (8, 16, 32)
"""Of the small measurements: bytes are polynomials of degree two in a row's lengths, exactly so at each operation."""

SHAPES = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1))
"""Which of the lengths an encoder's and a decoder's part of a row have; as many as such a polynomial has terms."""


MASKS = 16
"""Bytes of an attention's mask for a query and a key, copies included."""


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows the bytes of the tensors that are made, until they are freed.

    Attributes:
        live: bytes that stand now.
        moments: what stood after each operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.moments: list[int] = []
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._follow((args, kwargs), given=True)
        found = function(*args, **(kwargs or {}))
        self._follow(found, given=False)
        self.moments.append(self.live)
        return found

    def _follow(self, values: Any, *, given: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known:
                    self._known[key] = 0 if given else storage.nbytes()
                    self.live += self._known[key]
                    weakref.finalize(storage, self._freed, key).atexit = False

    def _freed(self, key: int) -> None:
        self.live -= self._known.pop(key)


@dataclass(frozen=True, eq=False)
class Footprint:
    """Bytes alive at each moment of a measurement of one row and one step, as polynomials of the row's lengths.

    Attributes:
        moments: coefficients at each moment; see :func:`_terms`.
        graph: the moment at which the forward has ended; what stands then stands until the last product is made.
        measured: whether they were counted, or guessed.
        block: how many pairs of a query and a key stand at a time, where the attention is computed by blocks.
    """

    moments: Float[Tensor, "moment term"]
    graph: int
    measured: bool
    block: int | None = None

    def row(self, source: int, decoder: int) -> int:
        """The most that stands at once, with one product at a time."""
        return self._most(self.moments, source, decoder)

    def product(self, source: int, decoder: int) -> int:
        """What one vector-Jacobian product adds to what stands when the forward has ended."""
        held = self._most(self.moments[self.graph : self.graph + 1], source, decoder)
        return max(0, self._most(self.moments[self.graph :], source, decoder) - held)

    def _most(self, moments: Tensor, source: int, decoder: int) -> int:
        terms, masks = _terms(source, decoder), 0
        pairs = terms[[2, 4, 5]]
        if self.block is not None:
            masks = MASKS * int(pairs.sum())
            terms[[2, 4, 5]] = pairs.clamp_max(self.block)
        return max(0, masks + round(float((moments @ terms).max())))


def _terms(source: int, decoder: int) -> Float[Tensor, " term"]:
    """The terms of a polynomial of degree two."""
    m, n = source, decoder
    return torch.tensor([1, n, n * n, m, m * m, m * n], dtype=torch.float64)


def guessed(adapter: Adapter, request: Request[Any]) -> Footprint:
    """More than most architectures take, from the number of weights and heads."""
    size = max(4, torch.tensor([], dtype=next(adapter.model.parameters()).dtype).element_size())
    layers, dim = (adapter.axis_size(axis) for axis in ("layer", "dim"))
    heads = adapter.axis_size("head") if adapter.facts.attention_sites or adapter.facts.attention_outputs else 1
    sides = len(adapter.tables)
    per_token = size * (adapter.n_weights // dim + 8 * dim)
    graph, edited = isinstance(request, Gradient), isinstance(request, Gradient) and request.edit is not None
    eager = edited or isinstance(request, Capture | Replay) or not memory_efficient(adapter)
    copies = (24 if edited else 4 if graph else 6) if eager else 2
    per_pair = size * (heads if eager else 1) * copies * (layers * sides if graph else 1)
    rows = 2 if isinstance(request, Gradient) and isinstance(request.edit, Rescale) else 1
    more = 4 * size * heads
    held = rows * torch.tensor([0, 4 * per_token, per_pair, 4 * per_token, per_pair, per_pair], dtype=torch.float64)
    transient = rows * torch.tensor([0, 2 * per_token, more, 2 * per_token, more, more])
    moments = torch.stack([held, held + (transient if graph else 0 * transient)])
    return Footprint(moments, 0, measured=False)


def by_blocks(footprint: Footprint, adapter: Adapter, request: Request[Any]) -> Footprint | None:
    """The same with attention by blocks, which an edited backward pass may have; None where it may not."""
    if not isinstance(request, Gradient) or request.edit is None or not splits(adapter):
        return None
    rows = 2 if isinstance(request.edit, Rescale) else 1
    return replace(footprint, block=BLOCK // (rows * adapter.axis_size("head")))


def memory_efficient(adapter: Adapter) -> bool:
    """Whether the model's attention keeps no weights."""
    return str(getattr(adapter.model.config, "_attn_implementation", "eager")).rpartition("|")[2] not in ("eager", "inseq")


def measured(measures: Measures, request: Request[Any]) -> Footprint | None:
    """Count the bytes of a request of this kind on a few short rows; None where that fails."""
    adapter = measures.adapter
    longest = min(LENGTHS[-1], *(adapter.max_positions(side) or LENGTHS[-1] for side in adapter.tables))
    lengths = [longest * length // LENGTHS[-1] for length in LENGTHS]
    sourced = "source" in adapter.tables
    shapes = [(lengths[a] if sourced else 0, lengths[b]) for a, b in (SHAPES if sourced else ((0, 0), (0, 1), (0, 2)))]
    prepare_head(adapter)
    counters, measures.counters = measures.counters, Counters()
    try:
        traces = [_trace(measures, request, *shape) for shape in shapes]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None
    finally:
        measures.counters = counters
    if len({(len(moments), graph) for moments, graph in traces}) > 1:
        traces = [([moments[graph], max(moments)], 0) for moments, graph in traces]
    terms = torch.stack([_terms(*shape) for shape in shapes])
    found = torch.tensor([moments for moments, _ in traces], dtype=torch.float64)
    kept = [0, 1, 2, 3, 4, 5] if sourced else [0, 1, 2]
    coefficients = torch.zeros(found.shape[1], terms.shape[1], dtype=torch.float64)
    coefficients[:, kept] = torch.linalg.solve(terms[:, kept], found).T
    return Footprint(coefficients, traces[0][1], measured=True)


def _trace(measures: Measures, request: Request[Any], source: int, decoder: int) -> tuple[list[int], int]:
    """Bytes after each operation of one small measurement, and after which of them the forward had ended."""
    adapter = measures.adapter
    n = 2 if has_beginnings(request, adapter) else 1
    job = Job(_small(adapter, request, source, decoder, n), range(1), range(n), sums=range(n), block=n - 1)
    run = RunContext(Target(_probability, contrast="none"), {}, None)
    ended: list[int] = []
    with Allocated() as allocated, UndoList() as undo:
        undo.hook(adapter.model.register_forward_hook, lambda *_: ended.append(len(allocated.moments) - 1))
        list(measures.measure(pack([job]), run, Budget(tokens=1, logits=2**20, cotangents=1)))
    return allocated.moments, ended[0] if ended else len(allocated.moments) - 1


def _small(adapter: Adapter, request: Request[Any], source: int, decoder: int, n_steps: int) -> Request[Any]:
    """The same request about the last steps of a short example of arbitrary tokens."""
    x = adapter.example(
        _ids(source, adapter.size("source")) if source else [],
        _ids(decoder + 1, adapter.size("generated")),
        decoder,
        range(decoder + 1 - n_steps, decoder + 1),
        attribute_target=not len(request.example.context),
        granular=False,
    )
    own: dict[str, Any] = {}
    if isinstance(request, Gradient):
        plain = Gradient(x)
        own = {"combine": plain.combine, "read": plain.read}
        own["reference"] = None if request.reference is None else torch.zeros_like(x.embeds)
    elif isinstance(request, Capture | Replay):
        own = {"fold": _Mixed}
    return replace(request, example=x, variants=Original(), **own)


def _ids(n: int, size: int) -> Sequence[int]:
    return [(7919 * k + 13) % size for k in range(n)]


def _probability(p: Prediction) -> Tensor:
    return p.logits.log_softmax(-1).gather(-1, p.ids[:, None])[:, 0].exp()


class _Mixed:
    """A fold that follows tokens through the layers, and keeps nothing."""

    def __init__(self) -> None:
        self.mix: Tensor | None = None

    def add(self, seen: Any) -> None:
        if isinstance(seen, Attended):
            mix = seen.weights.mean(0) / 2
            self.mix = mix if self.mix is None or self.mix.shape != mix.shape else mix @ self.mix
            for _, _ in () if seen.pieces is None else seen.pieces.chunks(seen.at):
                pass

    def value(self) -> dict[str, Tensor]:
        return {}
