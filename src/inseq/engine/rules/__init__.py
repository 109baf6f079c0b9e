"""Edited backward passes: what norms, activations, softmax and products pass on."""
