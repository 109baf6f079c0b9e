"""Scores: measurements that need no gradient."""
