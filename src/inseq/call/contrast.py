"""From what a user wants outputs compared with to the contrast of each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inseq.call.functions import CallFunctions, Compared
from inseq.call.positions import Explained
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter
from inseq.requests.example import Contrast, Example
from inseq.text.align import align, checked_pairs, pairs_of
from inseq.text.encode import are_ids, checked_text, known_ids


@dataclass(frozen=True)
class Comparisons:
    """The contrasts of a call, in the order of its texts.

    Attributes:
        contrasts: one for each text.
        facts: what ``info["contrast"]`` says of each: the other text, the compared positions and pieces, and whether
            the contexts are the same.
        notes: what a user should know.
    """

    contrasts: list[Contrast]
    facts: list[dict[str, Any]]
    notes: list[str]


def compare(adapter: Adapter, plan: CallFunctions, jobs: Sequence[Explained], texts: Sequence[str]) -> Comparisons:
    """Read, encode and align what the outputs are compared with.

    Args:
        adapter: the model.
        plan: the call.
        jobs: what is explained, one for each text.
        texts: the input texts.

    Raises:
        ArgumentError: if something cannot be compared.
    """
    asked = plan.compared
    sources = _sources(adapter, asked, jobs)
    targets = _targets(adapter, asked, jobs, texts)
    aligned = pairs_of(asked.contrast_targets_alignments, len(jobs))
    found = Comparisons([], [], [])
    for i, (job, source, target) in enumerate(zip(jobs, sources, targets, strict=True)):
        _check_length(adapter, source, target, i)
        pairs = checked_pairs(aligned[i], len(job.target), len(target), i)
        positions = [pairs.get(t, automatic) for t, automatic in zip(job.positions, _automatic(job, target), strict=True)]
        contrast = _contrast(adapter, job, source, target, positions)
        found.contrasts.append(contrast)
        found.facts.append(_facts(adapter, job, target, positions, contrast))
        found.notes.extend(_notes(plan, contrast, job, i))
    return found


def _sources(adapter: Adapter, asked: Compared, jobs: Sequence[Explained]) -> list[list[int]]:
    own = [job.source for job in jobs]
    if asked.contrast_sources is None:
        return own
    if "source" not in adapter.tables:
        raise ArgumentError(
            "contrast_sources is for encoder-decoder models: a decoder-only model reads one sequence, so put the other "
            "prompt, followed by its continuation, into contrast_targets."
        )
    entries = _entries(asked.contrast_sources, "contrast_sources", len(jobs))
    size = len(adapter.tables["source"].weight)
    return [
        adapter.encoder.input_ids(entry) if isinstance(entry, str) else known_ids(entry, size, f"contrast_sources[{i}]")
        for i, entry in enumerate(entries)
    ]


def _targets(adapter: Adapter, asked: Compared, jobs: Sequence[Explained], texts: Sequence[str]) -> list[list[int]]:
    """The other outputs' ids, whole: with the prompt of a decoder-only model, or the decoder's start.

    A text for a decoder-only model ends as the output does: with the end token, where that has one.
    """
    if asked.contrast_targets is None:
        return [job.target for job in jobs]
    encoder, size = adapter.encoder, len(adapter.tables["decoder"].weight)
    found = []
    for i, entry in enumerate(_entries(asked.contrast_targets, "contrast_targets", len(jobs))):
        name = f"contrast_targets[{i}]"
        if not isinstance(entry, str):
            ids = known_ids(entry, size, name)
            found.append(ids if encoder.start is None or ids[0] == encoder.start else [encoder.start, *ids])
        elif encoder.start is not None:
            found.append(encoder.target_ids(entry))
        else:
            whole = encoder.tokenizer.is_fast or not entry.startswith(texts[i])
            ids = encoder.input_ids(entry) if whole else encoder.continued_ids(texts[i], entry, name)[0]
            end = jobs[i].target[-1:] if jobs[i].target[-1] == adapter.special_id("eos") != ids[-1] else []
            found.append([*ids, *end])
    return found


def _entries(value: Any, argument: str, n_texts: int) -> list[Any]:
    """One text or list of ids for each input."""
    if isinstance(value, Tensor):
        value = value.tolist()
    entries = [value] if isinstance(value, str) or are_ids(value) else value
    if not isinstance(entries, list | tuple):
        raise ArgumentError(f"{argument} must be a text or ids for each input, got {type(value).__name__}.")
    entries = [entry.tolist() if isinstance(entry, Tensor) else entry for entry in entries]
    if len(entries) != n_texts:
        raise ArgumentError(f"{argument} has {len(entries)} entries and input_texts {n_texts}: pass one for each input.")
    for i, entry in enumerate(entries):
        if isinstance(entry, str):
            checked_text(entry, f"{argument}[{i}]")
        elif not are_ids(entry):
            raise ArgumentError(f"{argument}[{i}] must be a text or ids, got {type(entry).__name__} ({entry!r}).")
    return entries


def _check_length(adapter: Adapter, source: list[int], target: list[int], text: int) -> None:
    for side, length in (("source", len(source)), ("decoder", len(target))):
        limit = adapter.max_positions(side) if length else None
        if limit is not None and length > limit:
            raise ArgumentError(
                f"The contrast of text {text} needs {length} positions, and {type(adapter.model).__name__} has {limit}. "
                "Shorten it: it is never cut silently."
            )
    if len(target) < 2:
        raise ArgumentError(f"contrast_targets[{text}] has {len(target)} token: nothing in it is predicted from a prefix.")


def _automatic(job: Explained, target: list[int]) -> list[int]:
    """The aligned position of each step: of what follows the given prefix where both share it, else of everything."""
    shared = job.first if target[: job.first] == job.target[: job.first] and len(target) > job.first else 0
    found = align(job.target[shared:], target[shared:])
    return [max(1, shared + found[t - shared]) for t in job.positions]


def _contrast(adapter: Adapter, job: Explained, source: list[int], target: list[int], positions: list[int]) -> Contrast:
    used = sorted(set(positions))
    same_source = source == job.source
    differs = [not (same_source and target[:j] == job.target[:t]) for t, j in zip(job.positions, positions, strict=True)]
    device = adapter.device
    return Contrast(
        ids=torch.tensor([target[j] for j in positions], device=device),
        differs=torch.tensor(differs, device=device),
        example=adapter.example(source, target, 1, used, granular=False),
        index=torch.tensor([used.index(j) for j in positions], device=device),
    )


def _facts(adapter: Adapter, job: Explained, target: list[int], positions: list[int], contrast: Contrast) -> dict[str, Any]:
    pieces = adapter.encoder.tokenizer.convert_ids_to_tokens
    written = pieces([job.target[t] for t in job.positions])
    return {
        "text": adapter.encoder.tokenizer.decode(target, skip_special_tokens=True),
        "positions": [[t, j] for t, j in zip(job.positions, positions, strict=True)],
        "tokens": [list(pair) for pair in zip(written, pieces(contrast.ids.tolist()), strict=True)],
        "same_context": not bool(contrast.differs.any()),
    }


def _notes(plan: CallFunctions, contrast: Contrast, job: Explained, text: int) -> list[str]:
    """Refuse, or note, a target that cannot be anything but zero.

    Raises:
        ArgumentError: for a divergence of predictions from themselves.
    """
    facts, way = plan.target_facts, plan.target.contrast
    if not plan.method.facts.get("uses_target", True):
        return []
    if way == "differing" and facts.get("contrast") == "logits" and not contrast.differs.any():
        raise ArgumentError(
            f"attributed_fn {plan.target_name!r} compares predictions under two contexts, and those of text {text} are the "
            "same, so it is 0 whatever the input: give a contrast with another context, or pass contrast_force_inputs=True to "
            "compare with the predictions of the unaltered input."
        )
    written = [job.target[t] for t in job.positions]
    if way == "token" and facts.get("difference") and contrast.ids.tolist() == written:
        return [
            f"{plan.target_name}: the contrast of text {text} has the same tokens, so the target is 0 at every step; "
            "contrast_force_inputs=True compares with the contrast's own context"
        ]
    return []


def with_contrasts(examples: Sequence[Example], found: Comparisons) -> list[Example]:
    """The examples with what they are compared with."""
    return [replace(x, contrast=contrast) for x, contrast in zip(examples, found.contrasts, strict=True)]
