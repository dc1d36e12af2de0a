"""The handoff stage: what a server needs to sample from the compressed model without torch, diffusers or dtk."""
