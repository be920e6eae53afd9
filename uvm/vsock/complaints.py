"""Warnings about the guest that the guest cannot turn into a flood."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

INTERVAL: Final = 1.0


class Complaints:
    """Logs each kind of warning (each format string) at most once a second."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger: Final = logger
        self._muted: dict[str, tuple[float, int]] = {}

    def warn(self, text: str, *arguments: object) -> None:
        """Log ``text % arguments``, or count it for the next time."""
        now = time.monotonic()
        quiet_until, dropped = self._muted.get(text, (0.0, 0))
        if now < quiet_until:
            self._muted[text] = (quiet_until, dropped + 1)
            return
        self._muted[text] = (now + INTERVAL, 0)
        if dropped:
            text += f" ({dropped} more like this)"
        self._logger.warning(text, *arguments)
