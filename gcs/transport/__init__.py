"""Ways to reach the host (spec 1.1)."""
