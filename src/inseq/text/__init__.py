"""Text, ids and roles: what is attributed is decided here, once."""
