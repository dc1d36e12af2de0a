"""Recovery: training after pruning, with the dense model as teacher."""
