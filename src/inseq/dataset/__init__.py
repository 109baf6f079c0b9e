"""Data sets: attribute the rows of a file or a data set, and store the results as they come."""
