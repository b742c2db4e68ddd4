"""Held-out evaluation: arms, readings, figures, tables and the report."""
