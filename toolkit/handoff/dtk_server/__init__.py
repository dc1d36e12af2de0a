"""The sampling loop as a server runs it: numpy and a runtime, nothing else.

dtk copies this package next to the graph it serves, with toolkit/core/noise.py as its module ``noise``, so nothing here
imports dtk.
"""
