"""The command line. Torch is loaded by the commands that need it, never by ``--help``."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from inseq import __version__, _commands
from inseq.errors import InseqError

app = typer.Typer(
    help="Which input tokens made a sequence-generation model write each of its output tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEMO_TEXT = "我喜歡機器學習和人工智慧。"

Method = Annotated[str, typer.Option("--method", "-a", help="Attribution method; see `inseq methods`.")]
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""The commands of Inseq 0.7.1 read their flags by themselves, see :mod:`inseq._flags`."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inseq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command(context_settings=PASSED_ON)
def attribute(context: typer.Context) -> None:
    """Attribute what a model writes to what it read."""
    _commands.run_attribute(context.args)


@app.command(context_settings=PASSED_ON)
def attribute_dataset(context: typer.Context) -> None:
    """Attribute every row of a data set; the same command goes on with a run that was stopped."""
    _commands.run_attribute_dataset(context.args)


@app.command(context_settings=PASSED_ON)
def attribute_context(context: typer.Context) -> None:
    """Find which output tokens depend on the context, and on which of its tokens (PECoRe)."""
    _commands.run_attribute_context(context.args)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A saved result, or that of attribute-context.")],
    text: Annotated[int | None, typer.Option("--text", help="Of several texts only this one, counted from 1.")] = None,
    token: Annotated[
        int | None, typer.Option("--token", help="What this explained token depends on: 1 is the first one, -1 the last.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="How many of the strongest input tokens to list.")] = None,
    tsv: Annotated[bool, typer.Option("--tsv", help="Write all scores as tab-separated values.")] = False,
    save: Annotated[Path | None, typer.Option("--html", help="Write a page in place of showing it.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a saved result."""
    _commands.run_show(path, text, token, top, tsv, save, browse)


@app.command()
def demo(
    text: Annotated[str, typer.Argument(help="A Chinese sentence of the demonstration's controlled language.")] = DEMO_TEXT,
    method: Method = "saliency",
    save: Annotated[Path | None, typer.Option("--save", help="Where to write the page.")] = None,
) -> None:
    """Show an attribution of the bundled translation model."""
    from transformers.utils import logging

    import inseq

    logging.disable_progress_bar()

    found = inseq.load_model("demo/zh-en", method).attribute(text, step_scores=["probability"])
    if save is not None:
        found.save_html(save)
        typer.echo(f"Written: {save}", err=True)
    found.show()


@app.command()
def methods() -> None:
    """List attribution methods and step functions with their options."""
    from inseq.methods import method as all_methods
    from inseq.targets import step_function as all_step_functions

    for heading, registry in (("Attribution methods", all_methods), ("Step functions", all_step_functions)):
        typer.echo(f"{heading}\n")
        for name in registry:
            entry = registry[name]
            taken = ", ".join(f"{option}={default!r}" for option, default in entry.options.items())
            typer.echo(f"  {name:22} {entry.summary}" + (f"\n  {'':22} options: {taken}" if taken else ""))
        typer.echo("")


@app.command()
def doctor() -> None:
    """Say which versions and devices are here, and whether the bundled models work."""
    import torch

    import inseq

    typer.echo(f"python        {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("inseq", "torch", "transformers", "numpy", "safetensors", "sentencepiece", "bitsandbytes"):
        typer.echo(f"{package:13} {_installed(package)}")
    devices = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    typer.echo(f"devices       {', '.join(['cpu', *devices])}")
    for name, text in (("demo/zh-en", DEMO_TEXT), ("demo/gpt2", "Hello world")):
        found = inseq.load_model(name).attribute(text, show_progress=False)
        typer.echo(f"{name:13} works: {text} -> {found.info['generated_texts'][0]}")


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Run the command line. Exit codes: 1 for a failure while running, 2 for what was asked wrongly, 130 when interrupted."""
    try:
        app()
    except InseqError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        typer.echo(f"Failed: {type(error).__name__}: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
