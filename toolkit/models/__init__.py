"""diffusers models: folders and weights, what a denoiser takes, its conditions, autoencoder and precision."""
