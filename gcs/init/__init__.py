"""PID 1 and the programs it launches (spec 7.1, 7.2)."""
