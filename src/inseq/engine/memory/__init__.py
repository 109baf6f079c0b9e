"""How much memory a call takes, and how much it may take."""
