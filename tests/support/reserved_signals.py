"""What tests of signal dispositions leave aside."""

#: Signals 32 and 33, as a mask of /proc/<pid>/status: the C library keeps them for itself, so that
#: no program can set them, and who starts the tests may have them ignored.
RESERVED_SIGNALS = 3 << 31
