"""A model and its tokenizer as texts and tensors, under the names that code written for Inseq 0.7.1 knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter
from inseq.models.embeddings import EmbeddingTable
from inseq.requests import StepForward
from inseq.targets import StepFunctionArgs
from inseq.text.align import align, checked_pairs, pairs_of
from inseq.text.tokens import Role, Token

_Side = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Ids, embeddings and mask of one side."""


def call(function: Callable[..., Any], model: TextModel, options: dict[str, Any], forward: StepForward) -> Any:
    """Call a function of ``args`` on one forward of the engine.

    A single number stands for a batch of one, and counts for numbers. A function that puts the model in training mode does
    so until it returns.
    """
    given, sourced = forward.arguments, model.is_encoder_decoder
    args = StepFunctionArgs(
        attribution_model=model,
        forward_output=forward.output,
        target_ids=forward.ids,
        decoder_input_ids=forward.decoder_ids,
        decoder_input_embeds=given["decoder_inputs_embeds" if sourced else "inputs_embeds"],
        decoder_attention_mask=torch.ones_like(forward.decoder_ids),
        is_attributed_fn=forward.is_target,
        encoder_input_ids=forward.source_ids,
        encoder_input_embeds=given["inputs_embeds"] if sourced else None,
        encoder_attention_mask=given["attention_mask"] if sourced else None,
    )
    try:
        values = function(args, **options)
    finally:
        if model.model.training:
            model.model.eval()
    if not isinstance(values, Tensor):
        return values
    values = values.reshape(1) if values.ndim == 0 and len(forward.ids) == 1 else values
    return values if values.is_floating_point() or values.is_complex() else values.float()


@dataclass(frozen=True)
class BatchEncoding:
    """Ids of a batch of texts, padded on the right.

    Attributes:
        input_ids: Int["row position"].
        attention_mask: 1 where a position is real.
        input_tokens: the pieces, without padding.
        baseline_ids: the unknown token in every place but that of ends and starts, where it was asked for.
    """

    input_ids: Tensor
    attention_mask: Tensor
    input_tokens: list[list[str]]
    baseline_ids: Tensor | None = None

    def __getitem__(self, positions: slice) -> BatchEncoding:
        """The same positions of every row."""
        tokens = [row[positions] for row in self.input_tokens]
        baseline = None if self.baseline_ids is None else self.baseline_ids[:, positions]
        return BatchEncoding(self.input_ids[:, positions], self.attention_mask[:, positions], tokens, baseline)

    def to(self, device: Any) -> BatchEncoding:
        """The same on another device."""
        baseline = None if self.baseline_ids is None else self.baseline_ids.to(device)
        return BatchEncoding(self.input_ids.to(device), self.attention_mask.to(device), self.input_tokens, baseline)

    def __len__(self) -> int:
        return len(self.input_ids)


def ids_of(given: Any) -> Any:
    """The ids of an encoding, without padding; anything else as it is."""
    if not isinstance(given, BatchEncoding):
        return given
    return [row[kept.bool()] for row, kept in zip(given.input_ids, given.attention_mask, strict=True)]


class TextModel:
    """A model and its tokenizer, asked as Inseq's ``AttributionModel`` is. Neither is ever changed.

    Attributes:
        model_name: what the model was loaded by.
    """

    adapter: Adapter
    model_name: str

    @property
    def model(self) -> Any:
        """The transformers model, never changed."""
        return self.adapter.model

    @property
    def info(self) -> dict[str, Any]:
        """Facts of the model and its tokenizer."""
        return {
            "model_name": self.model_name,
            "model_class": type(self.model).__name__,
            "tokenizer_name": self.tokenizer_name,
            "tokenizer_class": type(self.tokenizer).__name__,
        }

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, never changed."""
        return self.adapter.encoder.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "") or self.model_name)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the input is read by an encoder of its own."""
        return "source" in self.adapter.tables

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.model.config

    @property
    def device_map(self) -> Any:
        """Where the parts of a model on several devices are; None of one on a single device."""
        return getattr(self.model, "hf_device_map", None)

    @property
    def embed_scale(self) -> float:
        """What the input's embeddings are multiplied by before the first layer."""
        table = self._table(as_targets=False)
        return float(table.unit * table.feed)

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.adapter.device

    @property
    def pad_token(self) -> str | None:
        return self.tokenizer.pad_token

    @property
    def eos_token_id(self) -> int | None:
        return self.adapter.special_id("eos")

    @property
    def bos_token_id(self) -> int | None:
        """The decoder's start of an encoder-decoder, else the tokenizer's own."""
        start = self.adapter.encoder.start
        return self.adapter.special_id("bos") if start is None else start

    @property
    def special_tokens_ids(self) -> list[int]:
        return list(self.tokenizer.all_special_ids)

    @property
    def special_tokens(self) -> list[str]:
        return list(self.tokenizer.all_special_tokens)

    @property
    def vocabulary_embeddings(self) -> Tensor:
        return self._table(as_targets=False).weight.detach()

    def encode(
        self,
        texts: str | Sequence[str],
        as_targets: bool = False,
        return_baseline: bool = False,
        include_eos_baseline: bool = False,
        add_bos_token: bool = True,
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """Ids of texts as the model reads them; of an encoder-decoder's outputs with ``as_targets``, the start included."""
        start = self.adapter.encoder.start
        if as_targets and start is None:
            raise ArgumentError("encode(as_targets=True) is for encoder-decoder models: a decoder-only model has one side.")
        given = [texts] if isinstance(texts, str) else list(texts)
        side = "text_target" if as_targets else "text"
        rows = [
            list(self.tokenizer(**{side: text}, add_special_tokens=add_special_tokens, truncation=False)["input_ids"])
            for text in given
        ]
        if as_targets and add_bos_token and start is not None:
            rows = [[start, *row] for row in rows]
        length = max(len(row) for row in rows)
        padding = self.adapter.special_id("pad") or self.eos_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.device)
        tokens = [self.tokenizer.convert_ids_to_tokens(row) for row in rows]
        baseline = self._baseline(ids, as_targets, include_eos_baseline) if return_baseline else None
        return BatchEncoding(ids, mask, tokens, baseline)

    def _baseline(self, ids: Tensor, as_targets: bool, include_eos: bool) -> Tensor:
        unknown = next(i for name in ("unk", "pad", "eos") if (i := self.adapter.special_id(name)) is not None)
        ends, starts = (-1 if i is None else i for i in (self.eos_token_id, self.bos_token_id))
        kept = ids.eq(-1 if include_eos else ends)
        if as_targets:
            kept[:, 0] |= ids[:, 0].eq(starts)
        return torch.where(kept, ids, torch.full_like(ids, unknown))

    def tokenize(
        self, texts: str | Sequence[str], as_targets: bool = False, add_special_tokens: bool = True
    ) -> list[list[str]]:
        """The pieces of texts as the model reads them."""
        return self.encode(texts, as_targets, add_special_tokens=add_special_tokens).input_tokens

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> list[str]:
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        rows = rows if rows and isinstance(rows[0], list) else [rows]
        return [self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def embed(self, inputs: Any, as_targets: bool = False, add_special_tokens: bool = True) -> Tensor:
        """Embeddings of texts or ids, as the model's forward takes them."""
        if not isinstance(inputs, Tensor):
            inputs = self.encode(inputs, as_targets, add_special_tokens=add_special_tokens).input_ids
        return self.embed_ids(inputs, as_targets)

    def embed_ids(self, ids: Tensor, as_targets: bool = False) -> Tensor:
        """Embeddings of ids, as the model's forward takes them."""
        table = self._table(as_targets)
        return table.embed(ids) * table.feed

    def get_embedding_layer(self) -> Any:
        return self._table(as_targets=False).module

    def get_forward_output(self, batch: Any, use_embeddings: bool = True, **kwargs: Any) -> Any:
        """Run the model on ``args`` themselves, on what :meth:`encode` gives, or on anything with ``sources`` and ``targets``.

        Embeddings are used where the batch has them, unless ``use_embeddings`` is False.
        """
        source: _Side
        decoder: _Side
        if isinstance(batch, StepFunctionArgs):
            source = (batch.encoder_input_ids, batch.encoder_input_embeds, batch.encoder_attention_mask)
            decoder = (batch.decoder_input_ids, batch.decoder_input_embeds, batch.decoder_attention_mask)
        else:
            source, decoder = _parts(getattr(batch, "sources", None)), _parts(getattr(batch, "targets", batch))
        if not self.is_encoder_decoder:
            return self.model(**_named("", decoder, use_embeddings), **kwargs)
        if source[0] is None and source[1] is None:
            raise ArgumentError(
                "get_forward_output needs both sides of an encoder-decoder: pass args, or an object with sources and targets."
            )
        given = _named("", source, use_embeddings) | _named("decoder_", decoder, use_embeddings)
        return self.model(**given, **kwargs)

    @property
    def formatter(self) -> TextModel:
        """What Inseq has a class of its own for: :meth:`convert_args_to_batch`."""
        return self

    def convert_args_to_batch(self, args: StepFunctionArgs) -> StepFunctionArgs:
        """What :meth:`get_forward_output` takes: the args themselves."""
        return args

    def train(self, mode: bool = True) -> None:
        """Put the model in training mode, until the function returns."""
        self.model.train(mode)

    def eval(self) -> None:
        """Put the model in evaluation mode, in which it is anyway."""
        self.model.eval()

    def output2logits(self, forward_output: Any) -> Tensor:
        """Predictions of the last position: Float["row vocab"]."""
        return forward_output.logits[:, -1, :]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = True, decode_tokens: bool = False) -> Any:
        """Pieces of ids, row by row; with ``decode_tokens`` what they say."""
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        if rows and isinstance(rows[0], list):
            return [self.convert_ids_to_tokens(row, skip_special_tokens, decode_tokens) for row in rows]
        if decode_tokens:
            special = self.adapter.encoder.special_ids if skip_special_tokens else ()
            kept = [i for i in rows if i not in special]
            return [token.text for token in self.adapter.encoder.tokens(kept, ["generated"] * len(kept))]
        return self.tokenizer.convert_ids_to_tokens(rows, skip_special_tokens=skip_special_tokens)

    def get_token_with_ids(
        self, batch: Any, contrast_target_tokens: Any = None, contrast_targets_alignments: Any = None
    ) -> list[list[Token]]:
        """The tokens of a batch, row by row, without padding.

        Args:
            batch: what :meth:`encode` gives, or anything with ``targets``, which are then taken.
            contrast_target_tokens: for each row the pieces of another text. A token that differs from the one that it is
                compared with is written as ``other → token``, and has the id -1.
            contrast_targets_alignments: pairs of positions, as ``attribute`` takes them; automatic where none is given.
        """
        encoder, encoding = self.adapter.encoder, getattr(batch, "targets", batch)
        role: Role = "prompt" if not self.is_encoder_decoder else "source" if encoding is batch else "generated"
        rows = [list(encoder.tokens(ids.tolist(), [role] * len(ids))) for ids in ids_of(encoding)]
        if contrast_target_tokens is None:
            return rows
        several = contrast_target_tokens if not isinstance(contrast_target_tokens[0], str) else [contrast_target_tokens]
        aligned = pairs_of(contrast_targets_alignments, len(rows))
        for n, (row, pieces, pairs) in enumerate(zip(rows, several, aligned, strict=True)):
            others = [str(piece) for piece in pieces]
            known = checked_pairs(pairs, len(row), len(others), n)
            automatic = align([token.id for token in row], self.convert_tokens_to_ids(others))
            for i, token in enumerate(row):
                other = others[known.get(i, automatic[i])]
                if other != token.token:
                    row[i] = Token(f"{other} → {token.token}", -1, token.role, f"{other} → {token.text}")
        return rows

    def clean_tokens(self, tokens: Any, skip_special_tokens: bool = False, as_targets: bool = False) -> Any:
        """What pieces say, each by itself, row by row; the piece where it says nothing."""
        if tokens and not isinstance(tokens[0], str):
            return [self.clean_tokens(row, skip_special_tokens, as_targets) for row in tokens]
        special = set(self.special_tokens) if skip_special_tokens else set()
        said = self.tokenizer.convert_tokens_to_string
        return [said([token]) or token for token in tokens if token not in special]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if tokens and not isinstance(tokens, str) and not isinstance(tokens[0], str):
            return [self.convert_tokens_to_ids(row) for row in tokens]
        return self.tokenizer.convert_tokens_to_ids(tokens)

    def convert_tokens_to_string(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        if tokens and not isinstance(tokens[0], str):
            return [self.convert_tokens_to_string(row, skip_special_tokens) for row in tokens]
        special = set(self.special_tokens) if skip_special_tokens else set()
        return self.tokenizer.convert_tokens_to_string([token for token in tokens if token not in special])

    def convert_string_to_tokens(self, text: Any, skip_special_tokens: bool = True, as_targets: bool = False) -> Any:
        if not isinstance(text, str):
            return [self.convert_string_to_tokens(each, skip_special_tokens, as_targets) for each in text]
        which = {"text_target": text} if as_targets else {"text": text}
        return self.tokenizer.convert_ids_to_tokens(
            self.tokenizer(**which, add_special_tokens=not skip_special_tokens)["input_ids"]
        )

    def _table(self, as_targets: bool) -> EmbeddingTable:
        tables = self.adapter.tables
        return tables["decoder" if as_targets or not self.is_encoder_decoder else "source"]


def _parts(batch: Any) -> _Side:
    return getattr(batch, "input_ids", None), getattr(batch, "input_embeds", None), getattr(batch, "attention_mask", None)


def _named(side: str, parts: _Side, use_embeddings: bool) -> dict[str, Any]:
    ids, embeds, mask = parts
    by_embeds = embeds is not None and (use_embeddings or ids is None)
    named = {f"{side}inputs_embeds": embeds} if by_embeds else {f"{side}input_ids": ids}
    return named if mask is None else {**named, f"{side}attention_mask": mask}
