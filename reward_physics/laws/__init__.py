"""Laws that a path or a field obeys."""
