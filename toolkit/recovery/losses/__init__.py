"""What recovery minimises: one file each, combined by the recipe."""
