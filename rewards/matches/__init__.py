"""Rewards that compare with a reference clip."""
