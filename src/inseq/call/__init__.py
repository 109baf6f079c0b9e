"""One call of ``attribute``: functions, inputs, positions, contrasts, the run and the outputs."""
