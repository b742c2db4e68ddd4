"""Rewards of fields."""
