"""Generators of the text that the bundled models were trained on, with the gold explanations of each sentence."""
