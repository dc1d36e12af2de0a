"""Kill everything at random moments, and compare what comes of it with what was left alone."""
