"""dtk: make a trained diffusion model half as large, prove what that won, and hand it to a server."""

__version__ = "0.1.0"
