"""Watching a run from the files that it leaves."""
