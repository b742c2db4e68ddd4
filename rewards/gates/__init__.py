"""Gates, which take away what a cheat would earn."""
