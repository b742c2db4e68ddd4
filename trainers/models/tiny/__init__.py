"""Tiny random models of the real classes."""
