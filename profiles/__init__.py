"""Profiles: what a model costs: parameters, MACs, latency and memory, dense and compressed side by side."""
