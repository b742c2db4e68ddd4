"""What stands around a training loop."""
