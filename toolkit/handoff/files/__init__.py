"""Files that travel with a handoff as they are; none of them is run by dtk itself."""
