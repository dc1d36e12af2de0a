"""Runs: the recipe, the run folder's stages one after another, and sweeps over several targets."""
