"""Images: a folder, a zip, an .npz, a `datasets` id, or the embedded default."""
