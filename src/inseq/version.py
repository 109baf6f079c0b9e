"""The version of this release, which files and results state."""

__version__ = "1.0.0.dev0"
