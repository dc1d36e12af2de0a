"""Pruning: which channels go, and a smaller stock model without them."""
