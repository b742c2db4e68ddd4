"""The embedded world of falling things."""
