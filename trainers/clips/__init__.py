"""Folders of clips: their files, how they are made, and their scores."""
