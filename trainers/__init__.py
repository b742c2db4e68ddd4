"""Learning: the one package that knows accelerate, diffusers, peft and trl."""
