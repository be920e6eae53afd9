"""How long the phases of a boot and of a container's life took."""

import time

import msgspec


class Timings:
    """Marks on a monotonic clock, from the moment of creation."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._marks: list[tuple[str, float]] = []

    def mark(self, phase: str) -> None:
        """Record that a phase has just ended."""
        self._marks.append((phase, time.monotonic() - self._start))

    def merge(self, marks: dict[str, float], *, offset: float = 0.0) -> None:
        """Add marks taken by another clock, in seconds."""
        self._marks += [(phase, seconds + offset) for phase, seconds in marks.items()]

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def as_dict(self) -> dict[str, float]:
        """Seconds from the start to the end of each phase."""
        return {phase: round(seconds, 4) for phase, seconds in self._marks}

    def to_json(self) -> str:
        """Return the marks as one JSON object, in seconds."""
        return msgspec.json.encode(self.as_dict()).decode()

    def to_text(self) -> str:
        """Return a table: phase, its own duration, time since the start, in milliseconds."""
        width = max([len("phase"), *(len(phase) for phase, _ in self._marks)])
        lines = [f"{'phase':<{width}}  {'took':>9}  {'at':>9}"]
        previous = 0.0
        for phase, seconds in self._marks:
            took = (seconds - previous) * 1000
            lines.append(f"{phase:<{width}}  {took:>6.0f} ms  {seconds * 1000:>6.0f} ms")
            previous = seconds
        return "\n".join(lines)
