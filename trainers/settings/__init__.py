"""What the settings of a run are, and how they are read."""
