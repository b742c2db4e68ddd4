"""Measuring: tensors in, physical quantities out. Pure torch, differentiable, in metres and seconds."""
