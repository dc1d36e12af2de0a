"""Checkpoints of other code bases in, a stock diffusers folder out."""
