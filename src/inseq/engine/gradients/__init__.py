"""Gradients: one forward, and vector-Jacobian products through as much of its graph as each step needs."""
