"""The embedded world of drops: scenes with exact ground truth, clips, and loaders for them."""
