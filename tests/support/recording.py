"""A double of `gcs.linux.syscalls.Syscalls` that records calls and fails where it is told to."""

from __future__ import annotations


class RecordingSyscalls:
    """Records each call as a tuple: name of the method, then its arguments."""

    def __init__(self, errors: dict[tuple[str, str], list[OSError]] | None = None) -> None:
        """errors: by (method, path) what the first, second, ... such call raises."""
        self.calls: list[tuple[object, ...]] = []
        self._errors = {key: list(value) for key, value in (errors or {}).items()}

    def _record(self, method: str, path: str, *arguments: object) -> None:
        self.calls.append((method, path, *arguments))
        waiting = self._errors.get((method, path))
        if waiting:
            raise waiting.pop(0)

    def mount(
        self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
    ) -> None:
        self._record("mount", target, source, filesystem, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        self._record("unmount", target, flags)

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        self._record("make_directory", path, mode)

    def make_symlink(self, path: str, target: str) -> None:
        self._record("make_symlink", path, target)
