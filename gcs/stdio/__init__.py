"""Relays between the streams of a process and the host (spec 1.11, 4.9)."""
