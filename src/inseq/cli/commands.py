"""The functions of the commands. Torch is loaded by those that need it, when they run, and never by ``--help``."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import webbrowser
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inseq.cli.flags import DEMO_TEXT
from inseq.compat.language import with_language
from inseq.errors import ArgumentError

if TYPE_CHECKING:
    from inseq.outputs.context import AttributeContextOutput
    from inseq.outputs.output import FeatureAttributionOutput
    from inseq.views.table import Table


def run_attribute(args: argparse.Namespace) -> None:
    """Attribute what a model writes to what it read."""
    _require(args, "model_name_or_path", "input_texts")
    _refuse_to_replace(args, args.save_path, args.viz_path)
    selectors = _selectors(args)
    model = _loaded(args)
    output = model.attribute(
        args.input_texts,
        args.generated_texts,
        batch_size=args.batch_size,
        show_progress=not args.quiet,
        **_arguments(args, model),
    )
    if args.attribution_aggregators or selectors or args.aggregate_output:
        output = _aggregated(output, args, selectors)
    if args.save_path:
        output.save(args.save_path, overwrite=args.overwrite)
    if args.viz_path:
        output.save_html(args.viz_path)
    if not args.hide_attributions:
        output.show()
    _say_written(args, args.save_path, args.viz_path)


def run_attribute_dataset(args: argparse.Namespace) -> None:
    """Attribute every row of a data set, or go on with a run that was stopped."""
    _require(args, "model_name_or_path", "dataset_name", "save_path")
    aggregating = ("attribution_aggregators", "attribution_selectors", "aggregate_output", "viz_path")
    refused = [name for name in aggregating if getattr(args, name)]
    if refused:
        raise ArgumentError(
            f"--{refused[0]} is not for attribute-dataset, which stores scores as they are: load_run gives each row."
        )
    from inseq.dataset.attribute import attribute_dataset

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
        progress=None if args.quiet else lambda n: _remark(f"{n} rows"),
        **_arguments(args, model),
    )
    if not args.quiet:
        counts = f"{finished.done} rows done, {finished.skipped} done before, {finished.failed} failed"
        _remark(f"Written: {finished.directory} ({counts})")


def run_attribute_context(args: argparse.Namespace) -> None:
    """Find which output tokens depend on the context, and on which of its tokens (PECoRe)."""
    _require(args, "model_name_or_path", "input_current_text")
    _refuse_to_replace(args, args.save_path, args.viz_path)
    from inseq.context.arguments import AttributeContextArgs
    from inseq.context.reliance import attribute_context_with_model, loaded_model

    _quieten(args)
    args.attribution_selectors = _selectors(args)
    context_args = AttributeContextArgs(**{field.name: getattr(args, field.name) for field in fields(AttributeContextArgs)})
    output = attribute_context_with_model(context_args, loaded_model(context_args))
    if args.save_path:
        output.save(args.save_path, overwrite=args.overwrite)
    if args.show_viz:
        output.show()
    if args.viz_path:
        output.save_html(args.viz_path)
    _say_written(args, args.save_path, args.viz_path)


def run_show(args: argparse.Namespace) -> None:
    """Show a saved result, or that of attribute-context."""
    page = Path(args.html) if args.html else None
    if args.open and page is None:
        page = Path(tempfile.mkdtemp(prefix="inseq-")) / "attribution.html"
    _refuse_idle_flags(args, page)
    result = _result(Path(args.path))
    if args.text is not None:
        result = _one_text(result, args.text)
    if page is not None:
        result.save_html(page)
        if args.open and not webbrowser.open(page.resolve().as_uri()):
            _remark(f"No browser can be opened here. Written: {page}")
        return
    if args.tsv:
        from inseq.views.terminal.tsv import tsv

        sys.stdout.buffer.write(tsv(_tables(result)).encode())
    else:
        from inseq.views.terminal import render as terminal

        terminal.render(_tables(result), token=args.token, top=args.top)


def run_demo(args: argparse.Namespace) -> None:
    """Show an attribution of the bundled translation model."""
    from transformers.utils import logging

    import inseq

    logging.disable_progress_bar()

    output = inseq.load_model("demo/zh-en", args.method).attribute(args.text, step_scores=["probability"])
    if args.save is not None:
        output.save_html(args.save)
        _remark(f"Written: {args.save}")
    output.show()


def run_methods(args: argparse.Namespace) -> None:
    """List attribution methods and step functions with their options."""
    from inseq.methods import method
    from inseq.targets import step_function

    for heading, registry in (("Attribution methods", method), ("Step functions", step_function)):
        print(f"{heading}\n")
        for name in registry:
            entry = registry[name]
            options = ", ".join(f"{option}={default!r}" for option, default in entry.options.items())
            print(f"  {name:22} {entry.summary}" + (f"\n  {'':22} options: {options}" if options else ""))
        print()


def run_doctor(args: argparse.Namespace) -> None:
    """Print which versions and devices are here, and whether the bundled models work."""
    import torch

    import inseq

    print(f"python        {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("inseq", "torch", "transformers", "numpy", "safetensors", "sentencepiece", "bitsandbytes"):
        print(f"{package:13} {_installed(package)}")
    devices = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    print(f"devices       {', '.join(['cpu', *devices])}")
    for name, text in (("demo/zh-en", DEMO_TEXT), ("demo/gpt2", "Hello world")):
        output = inseq.load_model(name).attribute(text, show_progress=False)
        print(f"{name:13} works: {text} -> {output.info['generated_texts'][0]}")


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _remark(text: str) -> None:
    print(text, file=sys.stderr)


def _refuse_idle_flags(args: argparse.Namespace, page: Path | None) -> None:
    """Refuse flags of ``inseq show`` that choose among scores, where all scores are written.

    Raises:
        ArgumentError: for the first of them.
    """
    choosing = {"--token": args.token, "--top": args.top}
    idle = [flag for flag, value in choosing.items() if value is not None] if args.tsv or page is not None else []
    idle += ["--tsv"] if args.tsv and page is not None else []
    if idle:
        raise ArgumentError(f"{idle[0]} cannot go with {'--tsv' if page is None else '--html'}, which writes all scores.")


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
    result: FeatureAttributionOutput | AttributeContextOutput, text: int
) -> FeatureAttributionOutput | AttributeContextOutput:
    from inseq.outputs.output import FeatureAttributionOutput

    size = len(result) if isinstance(result, FeatureAttributionOutput) else 1
    if not 1 <= text <= size:
        raise ArgumentError(f"Got --text {text}, but the result has {size} text{'s' * (size != 1)}, counted from 1.")
    if isinstance(result, FeatureAttributionOutput):
        return replace(result, sequence_attributions=[result[text - 1]])
    return result


def _tables(result: FeatureAttributionOutput | AttributeContextOutput) -> list[Table]:
    from inseq.outputs.output import FeatureAttributionOutput
    from inseq.outputs.tables import tables
    from inseq.views.context import context_table

    if isinstance(result, FeatureAttributionOutput):
        return tables(result)
    return [context_table(result)]


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
    """Return the arguments of ``attribute``."""
    positions = [int(value) for value in args.s or [] if value.lstrip("-").isdigit()]
    names = [value for value in args.s or [] if not value.lstrip("-").isdigit()]
    generation = with_language(args.generation_kwargs, args.tokenizer_kwargs, model.tokenizer)
    if args.max_new_tokens is not None:
        generation["max_new_tokens"] = args.max_new_tokens
    start = args.start_pos if args.start_pos is not None else positions[-1] if positions else None
    arguments = {
        "attributed_fn": args.attributed_fn,
        "step_scores": [*(args.step_scores or []), *names],
        "attribute_target": args.attribute_target,
        "generation_args": generation,
        "attr_pos_start": start,
        "attr_pos_end": args.end_pos,
    }
    optional = ("generate_from_target_prefix", "output_step_attributions", "include_eos_baseline", "alternatives")
    return {**arguments, **{name: getattr(args, name) for name in optional if getattr(args, name)}, **args.attribution_kwargs}


def _aggregated(output: Any, args: argparse.Namespace, selectors: list[int] | None) -> Any:
    from inseq.results.aggregate.pipeline import aggregate_at

    rescale = args.rescale_attributions
    scale = {"normalize": args.normalize_attributions and not rescale, "rescale": rescale}
    names = args.attribution_aggregators
    return replace(output, sequence_attributions=[aggregate_at(each, names, selectors, **scale) for each in output])


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
            _remark(f"Written: {path}")
