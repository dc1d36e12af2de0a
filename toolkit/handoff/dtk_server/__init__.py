"""The sampling loop as a server runs it: numpy and a runtime, nothing else.

dtk copies this package next to the engine it serves, with toolkit/noise.py as its module ``noise``, so nothing here
imports dtk.
"""
