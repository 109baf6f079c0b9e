"""Import paths of Inseq 0.7.1; what they name is elsewhere."""
