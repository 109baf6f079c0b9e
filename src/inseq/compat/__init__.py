"""What only code written for Inseq 0.7.1 needs: its names, options and forms of functions."""
