"""The command line. Torch is loaded by the commands that need it, never by ``--help``."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from inseq import __version__
from inseq.errors import InseqError

app = typer.Typer(
    help="Which input tokens made a sequence-generation model write each of its output tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEMO_TEXT = "我喜歡機器學習和人工智慧。"

Model = Annotated[str, typer.Option("--model", "-m", help="Hub name, local directory, demo/zh-en or demo/gpt2.")]
Method = Annotated[str, typer.Option("--method", "-a", help="Attribution method; see `inseq methods`.")]
Texts = Annotated[list[str], typer.Option("--input", "-i", help="A text to attribute; may be given several times.")]
Forced = Annotated[
    list[str] | None,
    typer.Option("--generated", "-g", help="The output to explain in place of generating it, one per input."),
]
StepScores = Annotated[list[str] | None, typer.Option("--step-score", "-s", help="A step function to record.")]
Target = Annotated[str, typer.Option("--target", "-fn", help="The step function to attribute.")]
Options = Annotated[str, typer.Option("--options", help="Options of method and step functions, as a JSON object.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Save the result here, as JSON.")]
Page = Annotated[Path | None, typer.Option("--html", help="Save a page to open in a browser here.")]
Device = Annotated[str | None, typer.Option(help="A torch device; CUDA where there is one by default.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inseq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command()
def attribute(
    model: Model,
    input_texts: Texts,
    method: Method = "saliency",
    generated_texts: Forced = None,
    step_scores: StepScores = None,
    target: Target = "probability",
    attribute_target: Annotated[bool, typer.Option(help="Score the generated prefix beside an encoder's source.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="The longest output to generate.")] = None,
    options: Options = "{}",
    device: Device = None,
    output: Output = None,
    html: Page = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    hide: Annotated[bool, typer.Option(help="Do not print the result.")] = False,
) -> None:
    """Attribute what a model writes to what it read."""
    _refuse_to_replace([path for path in (output, html) if path is not None and not overwrite])
    import inseq

    found = inseq.load_model(model, method, device=device).attribute(
        input_texts,
        generated_texts,
        attributed_fn=target,
        step_scores=step_scores or [],
        attribute_target=attribute_target,
        generation_args={} if max_new_tokens is None else {"max_new_tokens": max_new_tokens},
        **_json_object(options),
    )
    _deliver(found, output, html, overwrite, hide)


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
    _deliver(found, None, save, overwrite=True, hide=False)


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


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"--options must be a JSON object, got {text!r} ({error}).") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"--options must be a JSON object, got {text!r}.")
    return value


def _refuse_to_replace(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise typer.BadParameter(f"{path} exists: choose another path, or pass --overwrite.")


def _deliver(found: Any, output: Path | None, html: Path | None, overwrite: bool, hide: bool) -> None:
    if output is not None:
        found.save(output, overwrite=overwrite)
    if html is not None:
        found.save_html(html)
    if not hide:
        found.show()
    for path in (output, html):
        if path is not None:
            typer.echo(f"Written: {path}", err=True)


def main() -> None:
    """Run the command line; an error of ours is one sentence and exit code 2."""
    try:
        app()
    except InseqError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
