"""Virtual machines: QEMU, its devices and its files."""
