"""Control groups of version 2: one hierarchy, plain files."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from gcs.cgroup import metrics_v2
from gcs.cgroup.cgroup import Cgroup, CgroupManager, warn_of_io_weight
from gcs.cgroup.files import hugepage_sizes, read_number, read_table, read_text, write_text
from gcs.protocol.errors import GcsError, error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


class V2Manager(CgroupManager):
    """See :class:`CgroupManager`.

    Args:
        root: Mount point of the hierarchy.
        page_sizes: Names of the sizes of huge pages; by default those of the kernel.
    """

    __slots__ = ("_page_sizes",)

    version: ClassVar[str] = "v2"

    def __init__(self, root: str, page_sizes: list[str] | None = None) -> None:
        super().__init__(root)
        self._page_sizes = hugepage_sizes() if page_sizes is None else page_sizes

    def prepare(self) -> None:
        """Hand all controllers on to the groups below the root."""
        enable_controllers(self.root)

    def _group(self, path: str) -> Cgroup:
        return V2Cgroup(self.root, path, self._page_sizes)


class V2Cgroup(Cgroup):
    """See :class:`Cgroup`."""

    __slots__ = ("_page_sizes", "_root", "directory")

    version: ClassVar[str] = "v2"

    def __init__(self, root: str, path: str, page_sizes: list[str]) -> None:
        super().__init__(path)
        self.directory = root + path
        self._root = root
        self._page_sizes = page_sizes

    def directories(self) -> list[str]:
        """See Cgroup.directories."""
        return [self.directory]

    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """See Cgroup.create; controllers are handed on in every group above, none in this."""
        with ExitStack() as undo:
            directory = self._root
            for name in self.path.split("/")[1:]:
                enable_controllers(directory)
                directory = f"{directory}/{name}"
                try:
                    os.mkdir(directory, 0o755)
                except FileExistsError:
                    continue
                except OSError as error:
                    raise GcsError(f"cannot make a control group: {error_text(error)}") from error
                undo.callback(os.rmdir, directory)
            self.apply(resources)
            undo.pop_all()

    def apply(self, resources: Mapping[str, Any] | None) -> None:
        """See Cgroup.apply."""
        if resources is None:
            return
        from gcs.cgroup.resources import read_resources, v2_settings  # not needed to start

        for name, value in v2_settings(read_resources(resources)):
            if name == "io.bfq.weight" and not os.path.exists(f"{self.directory}/{name}"):
                self._set_io_weight(int(value))
            else:
                self._set(name, value)

    def read_metrics(self) -> dict[str, Any]:
        """See Cgroup.read_metrics."""
        metrics = metrics_v2.read_metrics(self.directory, self._page_sizes)
        self.require()  # or some of them are missing
        return metrics

    def memory_limit(self) -> int:
        """See Cgroup.memory_limit."""
        self.require()
        return read_number(f"{self.directory}/memory.max")

    def protect_memory(self, size: int) -> None:
        """See Cgroup.protect_memory."""
        self._set("memory.min", str(size))

    def memory_usage(self) -> int:
        """See Cgroup.memory_usage."""
        self.require()
        return read_number(f"{self.directory}/memory.current")

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills."""
        return read_table(f"{self.directory}/memory.events").get("oom_kill", 0)

    def memory_directory(self) -> str:
        """See Cgroup.memory_directory."""
        return self.directory

    def _process_directory(self) -> str:
        return self.directory

    def _kill_at_once(self) -> bool:
        try:
            write_text(f"{self.directory}/cgroup.kill", "1")
        except OSError:
            # Linux before 5.14, or a threaded group: one by one, which reports what fails.
            return not self.exists()
        return True

    def _write_memory_limit(self, limit: int) -> None:
        self._set("memory.max", str(limit))

    def _set(self, name: str, value: str) -> None:
        path = f"{self.directory}/{name}"
        if not os.path.exists(path):
            self.require()
            controllers = read_text(f"{self.directory}/cgroup.controllers").split()
            raise GcsError(
                f"control group {self.path}: {name} can't be set to {value!r}: the kernel has no "
                f"such setting here (controllers: {' '.join(controllers) or 'none'})"
            )
        self._write(path, value, f"setting {name}")

    def _set_io_weight(self, weight: int) -> None:
        """Do without the BFQ scheduler; without any that knows weights, leave it at a warning."""
        from gcs.cgroup.resources import io_weight

        if os.path.exists(f"{self.directory}/io.weight"):
            self._set("io.weight", f"default {io_weight(weight)}")
        else:
            warn_of_io_weight(self.path, weight)


def enable_controllers(directory: str) -> None:
    """Hand all controllers of a group on to the groups below it; log those it can't."""
    available = read_text(f"{directory}/cgroup.controllers").split()
    enabled = read_text(f"{directory}/cgroup.subtree_control").split()
    missing = [name for name in available if name not in enabled]
    path = f"{directory}/cgroup.subtree_control"
    if not missing or _try_to_write(path, " ".join(f"+{name}" for name in missing)) is None:
        return
    # One refused controller makes the kernel refuse the whole line.
    for name in missing:
        error = _try_to_write(path, f"+{name}")
        if error is not None:
            logger.warning("cgroup controller %s not enabled: %s", name, error_text(error))


def _try_to_write(path: str, value: str) -> OSError | None:
    try:
        write_text(path, value)
    except OSError as error:
        return error
    return None
