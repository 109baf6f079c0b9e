"""The first questions to a model, asked when it is loaded: embeddings, causality and attention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function, attention_implementation, own_attention
from inseq.models.facts import Capabilities
from inseq.models.guest import guest
from inseq.models.inputs import Inputs, Site
from inseq.models.probes import FAILURES, gap


@dataclass(frozen=True)
class _Probe:
    source: Tensor
    decoder: Tensor
    tolerance: float


def check(adapter: Adapter) -> Capabilities:
    """Probe a model, set what the adapter needs to know, and report.

    Raises:
        UnsupportedModelError: if predictions from embeddings cannot be made equal to predictions from ids.
    """
    facts = adapter.facts
    if facts.capabilities is None:
        with guest(adapter.model):
            facts.capabilities = _ask(adapter)
    for table, feed in zip(adapter.tables.values(), facts.feeds, strict=True):
        table.feed = feed
    return facts.capabilities


def _ask(adapter: Adapter) -> Capabilities:
    facts, probe = adapter.facts, _probe(adapter)
    embeddings = _check_embeddings(adapter, probe)
    facts.causal = _check_causality(adapter, probe)
    attention = _check_attention(adapter, probe)
    notes = () if facts.causal else ("a later token changes earlier predictions: every step is run by itself",)
    return Capabilities(embeddings, facts.causal, attention, adapter.max_positions(), notes)


def _probe(adapter: Adapter) -> _Probe:
    size = min(len(table.weight) for table in adapter.tables.values())
    avoid = adapter.encoder.special_ids
    ids = [i for i in ((7919 * k + 13) % size for k in range(64)) if i not in avoid][:12]
    ids = (ids * 12)[:12]
    half = adapter.tables["decoder"].weight.dtype in (torch.float16, torch.bfloat16)
    source = torch.tensor([ids[:5]], device=adapter.device)
    return _Probe(source, torch.tensor([ids[5:8]], device=adapter.device), 5e-2 if half else 1e-3)


def _logits(adapter: Adapter, probe: _Probe) -> Tensor:
    sourced = "source" in adapter.tables
    inputs = Inputs(
        source=adapter.tables["source"].embed(probe.source) if sourced else None,
        source_keep=torch.ones_like(probe.source, dtype=torch.bool) if sourced else None,
        decoder=adapter.tables["decoder"].embed(probe.decoder),
        at=torch.arange(probe.decoder.shape[1], device=adapter.device)[None].expand(len(probe.decoder), -1),
    )
    return adapter.read(inputs).logits


def _own_logits(adapter: Adapter, probe: _Probe) -> Tensor:
    with torch.no_grad():
        return adapter.model(**adapter.id_arguments(probe.source, probe.decoder), use_cache=False, return_dict=True).logits


def _check_embeddings(adapter: Adapter, probe: _Probe) -> str:
    own = _own_logits(adapter, probe)
    tables = adapter.tables
    gaps = {}
    for feeds in product(*({1.0, 1.0 / table.unit} for table in tables.values())):
        for table, feed in zip(tables.values(), feeds, strict=True):
            table.feed = feed
        gaps[feeds] = gap(_logits(adapter, probe), own)
    best = min(gaps, key=lambda feeds: gaps[feeds])
    adapter.facts.feeds = best
    if not gaps[best] <= probe.tolerance:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} predicts something else from embeddings than from ids (relative difference "
            f"{gaps[best]:.1e}, expected at most {probe.tolerance:.0e}): its forward reads the ids themselves, or scales "
            "embeddings in a way this library does not know. Its attributions would be wrong, so it is refused."
        )
    for table, feed in zip(tables.values(), best, strict=True):
        table.feed = feed
    return ", ".join(f"{side}: unit {table.unit:.4g}, fed x {table.feed:.4g}" for side, table in tables.items())


def _check_causality(adapter: Adapter, probe: _Probe) -> bool:
    """Same prefix, other suffix: the predictions over the prefix must agree."""
    changed = probe.decoder.clone()
    changed[:, -1] = probe.source[:, 0]
    rows = _logits(adapter, _Probe(probe.source.expand(2, -1), torch.cat([probe.decoder, changed]), probe.tolerance))
    return gap(rows[0, :-1], rows[1, :-1]) <= probe.tolerance


def _check_attention(adapter: Adapter, probe: _Probe) -> str | None:
    with attention_implementation(adapter.model, "eager"):
        eager = _logits(adapter, probe)
    order: list[tuple[int, int, int]] = []

    def record(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        order.append((id(module), query.shape[2], key.shape[2]))
        return own_attention(module, query, key, *args, **kwargs)

    try:
        with attention_function(adapter.model, record):
            routed = _logits(adapter, probe)
    except FAILURES:
        order = []
    sites = _sites(order, probe)
    if len(sites) == _attentions(adapter) == len(order) and gap(routed, eager) <= probe.tolerance:
        adapter.facts.attention_sites = sites
        return "interface"
    adapter.facts.attention_outputs = True
    seen: Counter[Site] = Counter()
    _attended(adapter, probe, seen)
    adapter.facts.attention_outputs = seen.total() == _attentions(adapter)
    return "outputs" if adapter.facts.attention_outputs else None


def _attended(adapter: Adapter, probe: _Probe, seen: Counter[Site]) -> None:
    def count(site: Site, layer: int, weights: Tensor | None) -> None:
        if weights is not None and weights.shape[2] in (probe.source.shape[1], probe.decoder.shape[1]):
            seen[site] += 1

    sourced = "source" in adapter.tables
    inputs = Inputs(
        adapter.tables["source"].embed(probe.source) if sourced else None,
        torch.ones_like(probe.source, dtype=torch.bool) if sourced else None,
        adapter.tables["decoder"].embed(probe.decoder),
        torch.zeros(1, 1, dtype=torch.long, device=adapter.device),
    )
    try:
        adapter.read(inputs, attention=count)
    except FAILURES:
        seen.clear()


def _sites(order: list[tuple[int, int, int]], probe: _Probe) -> dict[int, tuple[Site, int]]:
    """Tell the sites apart by the probe's unequal lengths; layers are counted in the order of the calls."""
    n_source, n_decoder = probe.source.shape[1], probe.decoder.shape[1]
    kinds: dict[tuple[int, int], Site] = {
        (n_source, n_source): "encoder",
        (n_decoder, n_decoder): "decoder",
        (n_decoder, n_source): "cross",
    }
    layers: Counter[Site] = Counter()
    sites: dict[int, tuple[Site, int]] = {}
    for module, query, key in order:
        kind = kinds.get((query, key))
        if kind is not None and module not in sites:
            sites[module] = (kind, layers[kind])
            layers[kind] += 1
    return sites


def _attentions(adapter: Adapter) -> int | None:
    try:
        return _configured_attentions(adapter)
    except StopIteration:
        return None


def _configured_attentions(adapter: Adapter) -> int:
    decoder = adapter.axis_size("layer")
    if "source" not in adapter.tables:
        return decoder
    config = adapter.config_of("source")
    names = ("encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers")
    return int(next(size for name in names if (size := getattr(config, name, None)))) + 2 * decoder
