"""The command that scores video files."""
