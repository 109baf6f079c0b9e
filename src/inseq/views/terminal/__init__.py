"""Text for terminals and files of tab-separated values."""
