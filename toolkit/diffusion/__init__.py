"""Diffusion itself: the training objective, the sampling loop and classifier-free guidance."""
