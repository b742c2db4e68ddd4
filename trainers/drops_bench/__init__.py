"""Arms at the same budget, in a queue, with one table."""
