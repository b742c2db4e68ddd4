"""Recipes: their files, what they name, and what they make of rewards."""
