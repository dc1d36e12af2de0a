"""One adapter for each diffusers class: which config fields are free, how they couple, which tensors follow."""
