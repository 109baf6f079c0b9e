"""The page: HTML that says what it has to say without its script, and the script that makes it answer."""
