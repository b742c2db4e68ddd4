"""Rewards of several bodies, and of one body's shape."""
