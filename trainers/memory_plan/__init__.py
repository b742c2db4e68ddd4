"""What a training step needs in memory, found by running it on tensors without data."""
