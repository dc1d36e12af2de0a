"""A machine with an NVIDIA GPU, looked at for the first time, in pieces: ``python -m benchmarks.gpu --help``."""
