"""From pixels to a path, in the picture and in metres."""
