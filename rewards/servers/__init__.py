"""Rewards computed by servers."""
