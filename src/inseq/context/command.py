"""Reliance on context from one record of arguments, as the command line of Inseq 0.7.1 has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inseq.context.arguments import AttributeContextArgs
from inseq.context.reliance import attribute_context_with_model, loaded_model
from inseq.outputs.context import AttributeContextOutput


def attribute_context(args: AttributeContextArgs) -> AttributeContextOutput:
    """Load the model that the arguments name, attribute, and save, write and show what they ask for."""
    output = attribute_context_with_model(args, loaded_model(args))
    if args.save_path:
        output.save(args.save_path, overwrite=True)
    visualize_attribute_context(output, show_viz=args.show_viz, viz_path=args.viz_path)
    return output


def visualize_attribute_context(
    output: AttributeContextOutput,
    model: Any = None,
    cti_threshold: float | None = None,
    show_viz: bool = True,
    viz_path: str | Path | None = None,
) -> str:
    """Show an output, write its page, and return that; ``model`` and ``cti_threshold`` are not needed."""
    page = output.show(display=show_viz, return_html=True)
    if viz_path:
        output.save_html(viz_path)
    return page or ""
