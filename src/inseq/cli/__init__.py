"""The command line."""

from inseq.cli.main import main as main
