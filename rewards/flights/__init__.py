"""Rewards of one thing that flies, slides or swings."""
