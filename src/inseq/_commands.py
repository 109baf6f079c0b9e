"""What the commands ``attribute``, ``attribute-dataset``, ``attribute-context`` and ``show`` do with their flags."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inseq._flags import Flags, of_attribution, shared
from inseq._language import with_language
from inseq.errors import ArgumentError

if TYPE_CHECKING:
    from inseq.outputs.context import AttributeContextOutput
    from inseq.outputs.output import FeatureAttributionOutput
    from inseq.views.table import Table


def run_attribute(arguments: Sequence[str]) -> None:
    """Attribute what a model writes to what it read."""
    flags = Flags("attribute", run_attribute.__doc__ or "")
    of_attribution(flags)
    flags.flag("--input_texts -i --input", list, help="The texts to attribute.")
    flags.flag("--generated_texts -g --generated", list, help="The outputs to explain in place of generating them.")
    args = flags.read(arguments)
    _require(args, "model_name_or_path", "input_texts")
    _refuse_to_replace(args, args.save_path, args.viz_path)
    model = _loaded(args)
    found = model.attribute(
        args.input_texts,
        args.generated_texts,
        batch_size=args.batch_size,
        show_progress=not args.quiet,
        **_arguments(args, model),
    )
    if args.attribution_aggregators or args.attribution_selectors or args.aggregate_output:
        found = _aggregated(found, args)
    if args.save_path:
        found.save(args.save_path, overwrite=args.overwrite)
    if args.viz_path:
        found.save_html(args.viz_path)
    if not args.hide_attributions:
        found.show()
    _say_written(args, args.save_path, args.viz_path)


def run_attribute_dataset(arguments: Sequence[str]) -> None:
    """Attribute every row of a data set; the same command goes on with a run that was stopped."""
    flags = Flags("attribute-dataset", run_attribute_dataset.__doc__ or "")
    of_attribution(flags)
    flags.flag("--dataset_name -d --dataset", help="A .csv, .tsv, .jsonl, .json, .parquet or .txt file, or a name of the hub.")
    flags.flag("--input_text_field -in --input", default="text", help="The field with the input text.")
    flags.flag("--generated_text_field -gen --generated", help="The field with the output to explain.")
    flags.flag("--dataset_config", help="Which configuration of the data set.")
    flags.flag("--dataset_dir --dir", help="Its directory.")
    flags.flag("--dataset_files --files", list, help="Its files.")
    flags.flag("--dataset_split --split", default="train", help="Its split.")
    flags.flag("--dataset_revision --revision", help="Its revision.")
    flags.flag("--dataset_auth_token --auth", help="A token of the hub.")
    flags.flag("--dataset_kwargs", dict, {}, "Further arguments of datasets.load_dataset.")
    flags.flag("--limit", int, help="How many rows at most.")
    args = flags.read(arguments)
    _require(args, "model_name_or_path", "dataset_name", "save_path")
    unaggregated = ("attribution_aggregators", "attribution_selectors", "aggregate_output", "viz_path")
    idle = [name for name in unaggregated if getattr(args, name)]
    if idle:
        raise ArgumentError(
            f"--{idle[0]} is not for attribute-dataset, which stores scores as they are: load_run gives each row."
        )
    from inseq.dataset import attribute_dataset

    hub = {"name": args.dataset_config, "data_dir": args.dataset_dir, "data_files": args.dataset_files}
    hub |= {"revision": args.dataset_revision, "token": args.dataset_auth_token, "split": args.dataset_split}
    model = _loaded(args)
    finished = attribute_dataset(
        model,
        args.dataset_name,
        args.save_path,
        args.input_text_field,
        args.generated_text_field,
        batch_size=args.batch_size,
        limit=args.limit,
        dataset_kwargs={key: value for key, value in {**hub, **args.dataset_kwargs}.items() if value is not None},
        progress=None if args.quiet else lambda n: typer.echo(f"{n} rows", err=True),
        **_arguments(args, model),
    )
    if not args.quiet:
        said = f"{finished.done} rows done, {finished.skipped} done before, {finished.failed} failed"
        typer.echo(f"Written: {finished.directory} ({said})", err=True)


def run_attribute_context(arguments: Sequence[str]) -> None:
    """Find which output tokens depend on the context, and on which of its tokens (PECoRe)."""
    flags = Flags("attribute-context", run_attribute_context.__doc__ or "")
    shared(flags)
    for name, kind in CONTEXT.items():
        flags.flag(name, kind, True if name in ("--show_viz", "--add_output_info") else False if kind is bool else None)
    args = flags.read(arguments)
    _require(args, "model_name_or_path", "input_current_text")
    _refuse_to_replace(args, args.save_path, args.viz_path)
    from inseq.commands.attribute_context import attribute_context
    from inseq.context import AttributeContextArgs

    _quieten(args)
    given: dict[str, Any] = {f.name: getattr(args, f.name, None) for f in fields(AttributeContextArgs)}
    given["attribution_selectors"] = _selectors(args)
    plain = {f.name for f in fields(AttributeContextArgs) if f.default is None}
    attribute_context(AttributeContextArgs(**{k: v for k, v in given.items() if v is not None or k in plain}))
    _say_written(args, args.save_path, args.viz_path)


def run_show(
    path: Path, text: int | None, token: int | None, top: int | None, tsv: bool, save: Path | None, browse: bool
) -> None:
    """Show a saved result, or that of attribute-context."""
    if browse and save is None:
        save = Path(tempfile.mkdtemp(prefix="inseq-")) / "attribution.html"
    given = {"--token": token, "--top": top}
    idle = [flag for flag, value in given.items() if value is not None] if tsv or save is not None else []
    idle += ["--tsv"] if tsv and save is not None else []
    if idle:
        raise ArgumentError(f"{idle[0]} cannot go with {'--tsv' if save is None else '--html'}, which writes all scores.")
    found = _result(path)
    if text is not None:
        found = _one_text(found, text)
    if save is not None:
        found.save_html(save)
        if browse:
            typer.launch(str(save))
        return
    tables = _tables(found)
    if tsv:
        from inseq.views.tsv import tsv as separated

        typer.echo(separated(tables).encode(), nl=False)
    else:
        from inseq.views import terminal

        terminal.render(tables, token=token, top=top)


def _result(path: Path) -> FeatureAttributionOutput | AttributeContextOutput:
    from inseq.errors import FileFormatError
    from inseq.outputs.context import AttributeContextOutput
    from inseq.outputs.output import FeatureAttributionOutput

    try:
        return FeatureAttributionOutput.load(path)
    except FileFormatError as error:
        try:
            return AttributeContextOutput.load(path)
        except FileFormatError:
            raise error from None


def _one_text(
    found: FeatureAttributionOutput | AttributeContextOutput, text: int
) -> FeatureAttributionOutput | AttributeContextOutput:
    from inseq.outputs.output import FeatureAttributionOutput

    size = len(found) if isinstance(found, FeatureAttributionOutput) else 1
    if not 1 <= text <= size:
        raise ArgumentError(f"Got --text {text}, but the result has {size} text{'s' * (size != 1)}, counted from 1.")
    if isinstance(found, FeatureAttributionOutput):
        return replace(found, sequence_attributions=[found[text - 1]])
    return found


def _tables(found: FeatureAttributionOutput | AttributeContextOutput) -> list[Table]:
    from inseq.outputs.output import FeatureAttributionOutput
    from inseq.outputs.tables import tables
    from inseq.views.context import context_table

    if isinstance(found, FeatureAttributionOutput):
        return tables(found)
    return [context_table(found)]


CONTEXT: dict[str, Any] = {
    "--input_current_text": str,
    "--input_context_text": str,
    "--input_template": str,
    "--output_context_text": str,
    "--output_current_text": str,
    "--output_template": str,
    "--contextless_input_current_text": str,
    "--contextless_output_current_text": str,
    "--context_sensitivity_metric": str,
    "--handle_output_context_strategy": str,
    "--contextless_output_next_tokens": list,
    "--prompt_user_for_contextless_output_next_tokens": bool,
    "--special_tokens_to_keep": list,
    "--decoder_input_output_separator": str,
    "--context_sensitivity_std_threshold": float,
    "--context_sensitivity_topk": int,
    "--attribution_std_threshold": float,
    "--attribution_topk": int,
    "--show_intermediate_outputs": bool,
    "--save_path -o --output": str,
    "--add_output_info": bool,
    "--viz_path --html": str,
    "--show_viz": bool,
}


def _loaded(args: argparse.Namespace) -> Any:
    _quieten(args)
    import inseq

    return inseq.load_model(
        args.model_name_or_path,
        args.attribution_method,
        device=args.device,
        model_kwargs=args.model_kwargs or None,
        tokenizer_kwargs=args.tokenizer_kwargs or None,
    )


def _quieten(args: argparse.Namespace) -> None:
    if args.quiet:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _arguments(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """What ``attribute`` is called with."""
    places = [int(value) for value in args.s or [] if value.lstrip("-").isdigit()]
    names = [value for value in args.s or [] if not value.lstrip("-").isdigit()]
    generation = with_language(args.generation_kwargs, args.tokenizer_kwargs, model.tokenizer)
    if args.max_new_tokens is not None:
        generation["max_new_tokens"] = args.max_new_tokens
    start = args.start_pos if args.start_pos is not None else places[-1] if places else None
    given = {
        "attributed_fn": args.attributed_fn,
        "step_scores": [*(args.step_scores or []), *names],
        "attribute_target": args.attribute_target,
        "generation_args": generation,
        "attr_pos_start": start,
        "attr_pos_end": args.end_pos,
    }
    new = ("generate_from_target_prefix", "output_step_attributions", "include_eos_baseline", "alternatives")
    return {**given, **{name: getattr(args, name) for name in new if getattr(args, name)}, **args.attribution_kwargs}


def _aggregated(found: Any, args: argparse.Namespace) -> Any:
    from inseq.results.aggregate.pipeline import aggregate_at

    rescale = args.rescale_attributions
    scale = {"normalize": args.normalize_attributions and not rescale, "rescale": rescale}
    names, selectors = args.attribution_aggregators, _selectors(args)
    return replace(found, sequence_attributions=[aggregate_at(each, names, selectors, **scale) for each in found])


def _selectors(args: argparse.Namespace) -> list[int] | None:
    try:
        return [int(value) for value in args.attribution_selectors] if args.attribution_selectors else None
    except ValueError:
        raise ArgumentError(f"--attribution_selectors must be whole numbers, got {args.attribution_selectors}.") from None


def _require(args: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if not getattr(args, name)]
    if missing:
        raise ArgumentError(f"Missing {', '.join(missing)}, on the command line or in --config; see --help.")


def _refuse_to_replace(args: argparse.Namespace, *paths: str | None) -> None:
    for path in paths:
        if path is not None and Path(path).exists() and not args.overwrite:
            raise ArgumentError(f"{path} exists: choose another path, or pass --overwrite.")


def _say_written(args: argparse.Namespace, *paths: str | None) -> None:
    for path in paths:
        if path is not None and not args.quiet:
            typer.echo(f"Written: {path}", err=True)
