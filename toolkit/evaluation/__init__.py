"""How good the compressed model is: against the dense one, pair by pair, and against real images."""
