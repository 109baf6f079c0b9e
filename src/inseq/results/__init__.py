"""Outputs as data: scores with named axes, their aggregation, and files."""
