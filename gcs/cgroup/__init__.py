"""Control groups of either version (floor 3)."""
