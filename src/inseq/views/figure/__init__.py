"""Figures: SVG, PNG and PDF."""
