"""Results made visible: one intermediate form, drawn as HTML or as text."""
