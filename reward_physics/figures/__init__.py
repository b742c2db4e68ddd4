"""Figures of clips: metrics, intervals, distributions and published definitions."""
