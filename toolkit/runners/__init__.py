"""Runners: the denoiser made callable, whatever computes it."""
