"""The ``uvm`` command."""

from uvm.cli.main import main

__all__ = ["main"]
