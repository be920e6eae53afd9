"""Thin, typed system calls: one kernel facility per module, errors as OSError naming the object.

The lowest floor: imports nothing of gcs.  Modules that PID 1 uses import next to nothing at all.
"""
