"""Outputs as users hold them: data with methods that show, aggregate and save."""
