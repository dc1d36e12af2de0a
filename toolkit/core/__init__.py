"""What everything else stands on: errors, files, noise, the run folder, and where something ran. No framework."""
