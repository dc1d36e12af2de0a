"""How a channel is scored: one file each."""
