"""Figures as the tests look at them: the elements of an SVG, the pixels of a figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from results import translation

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.colours import css, palette
from inseq.views.figure import svg
from inseq.views.figure.shapes import Drawing, Grid, Text
from inseq.views.tabulate import table

STRONGEST = {kind: css(palette(kind, "light")[-1]) for kind in ("sequential", "diverging")}
INCHES_WIDE, POINTS = 10.0, 72.0


class Picture:
    """What an SVG consists of."""

    def __init__(self, text: str) -> None:
        self.root = ElementTree.fromstring(text)
        self.elements = [(e.tag.rpartition("}")[2], dict(e.attrib), e.text or "") for e in self.root.iter()]
        self.texts = [text for tag, _, text in self.elements if tag == "text"]

    def cells(self) -> list[dict[str, str]]:
        """Without the paper."""
        return [attributes for tag, attributes, _ in self.elements if tag == "rect" and "x" in attributes]

    def labelled(self, text: str) -> dict[str, str]:
        return next(attributes for tag, attributes, found in self.elements if tag == "text" and found == text)


def picture(*outputs: FeatureAttributionSequenceOutput, title: str | None = None) -> Picture:
    return Picture(svg.document([table(output) for output in outputs], title))


def long(rows: int, columns: int, **changes: Any) -> FeatureAttributionSequenceOutput:
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    return translation(scores, [f" in{i}" for i in range(rows)], [f" out{i}" for i in range(columns)], **changes)


def pixels(output: FeatureAttributionSequenceOutput | FeatureAttributionOutput) -> Any:
    """The figure as an array of red, green and blue; at 72 dots to an inch a pixel is a point."""
    from matplotlib.image import imread

    buffer = io.BytesIO()
    output.plot().savefig(buffer, format="png", dpi=POINTS)
    buffer.seek(0)
    return (imread(buffer)[..., :3] * 255).round().astype(int)


def font(path: Path, name: str, text: str) -> Path:
    """A font file in which every letter of the text is a square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    built = FontBuilder(1000, isTTF=True)
    built.setupGlyphOrder([".notdef", "square"])
    built.setupCharacterMap({ord(letter): "square" for letter in text})
    built.setupGlyf({".notdef": square, "square": square})
    built.setupHorizontalMetrics({".notdef": (1000, 100), "square": (1000, 100)})
    built.setupHorizontalHeader(ascent=880, descent=-120)
    built.setupNameTable({"familyName": name, "styleName": "Regular"})
    built.setupOS2()
    built.setupPost()
    built.save(path)
    return path


def grid(drawn: Drawing) -> Grid:
    return next(mark for mark in drawn.marks if isinstance(mark, Grid))


def texts(drawn: Drawing) -> list[str]:
    return [mark.text for mark in drawn.marks if isinstance(mark, Text)]
