"""Several processes: how they are launched, talk, and share a step or the tokens of a clip."""
