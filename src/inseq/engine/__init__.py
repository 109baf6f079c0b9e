"""Measurements of the model: asked for by methods, packed into full batches, run once."""
