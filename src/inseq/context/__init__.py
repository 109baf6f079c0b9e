"""Reliance on context: which earlier words made the model write a token."""
