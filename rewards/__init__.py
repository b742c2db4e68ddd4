"""Judging: an Observation in, one score per clip out. Higher is better, NaN where it cannot be measured."""
