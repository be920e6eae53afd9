"""Build steps of the boot image: archives, Debian packages, the Python prefix, kernel files."""
