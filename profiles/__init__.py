"""Profiles: what a model costs: parameters, MACs, latency and memory, dense beside compressed."""
