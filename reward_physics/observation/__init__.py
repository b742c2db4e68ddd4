"""A video and everything measured on it."""
