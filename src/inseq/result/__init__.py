"""What was found: scores with named axes, their aggregation, and files that are data."""
