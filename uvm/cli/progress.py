"""What takes long, said on stderr."""

import sys
import time
from typing import Self


class Progress:
    """Steps of a command.

    On a terminal the current step stands in one line, which is wiped at the end; with
    ``verbose`` every step has a line of its own; otherwise nothing is said.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._transient = not verbose and sys.stderr.isatty()
        self._shown = False
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def step(self, text: str) -> None:
        """Say what is being done now."""
        if self._transient:
            sys.stderr.write(f"\r\x1b[K{text} …")
            sys.stderr.flush()
            self._shown = True
        elif self._verbose:
            self.say(f"[{time.monotonic() - self._start:6.2f} s] {text}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        sys.stderr.write(f"uvm: {text}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the line, before something else writes to the terminal."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
