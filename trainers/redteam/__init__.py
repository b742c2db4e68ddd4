"""Attacks on recipes: true clips made wrong, and adversarial noise."""
