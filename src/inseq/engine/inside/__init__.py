"""Looking inside a forward: attention weights, pieces of the residual stream, layers run again."""
