"""Control groups of version 1: one hierarchy per controller.

Limits of cpu, cpuset, memory and blkio are set through `cgroupspy`, which knows the types of their
files.  It knows no other controllers (pids, hugetlb, freezer, rdma), no kernel memory, no OOM
notification and no counters per device, takes no text for a cpuset, and misspells the names of two
blkio files: those are plain files here.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gcs.cgroup import metrics_v1
from gcs.cgroup.cgroup import Cgroup, CgroupManager, warn_of_io_weight
from gcs.cgroup.files import MAX, hugepage_sizes, read_number, read_table, read_text, write_text
from gcs.protocol.errors import GcsError, error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcs.cgroup.resources import BlockIo, Cpu, Memory

# What the kernel says for no limit: the largest number of pages that fits into a signed number.
_NO_LIMIT: Final = 2**63 - 2**16
# A process is in all hierarchies; these are complete and cheap to list.
_LISTING: Final = ("pids", "memory", "freezer", "cpu", "devices")


class V1Manager(CgroupManager):
    """See :class:`CgroupManager`.

    Args:
        root: Directory with the mount point of each hierarchy.
        page_sizes: Names of the sizes of huge pages; by default those of the kernel.
    """

    __slots__ = ("_page_sizes", "hierarchies")

    version: ClassVar[str] = "v1"

    def __init__(self, root: str, page_sizes: list[str] | None = None) -> None:
        super().__init__(root)
        self._page_sizes = hugepage_sizes() if page_sizes is None else page_sizes
        self.hierarchies = find_hierarchies(root)

    def prepare(self) -> None:
        """Have the memory controller count whole trees, as newer kernels do anyway (spec 4.7)."""
        memory = self.hierarchies.get("memory")
        if memory is None:
            raise GcsError(
                f"no cgroup v1 memory controller is mounted below {self.root}; does the kernel "
                "have CONFIG_MEMCG (CONFIG_MEMCG_V1 since Linux 6.11)?"
            )
        path = f"{memory}/memory.use_hierarchy"
        try:
            if read_number(path) != 1:
                write_text(path, "1")
        except OSError as error:
            text = error_text(error)
            raise GcsError(f"cannot enable hierarchical memory accounting: {text}") from error

    def _group(self, path: str) -> Cgroup:
        return V1Cgroup(self.root, path, self.hierarchies, self._page_sizes)


def find_hierarchies(root: str) -> dict[str, str]:
    """Return the mount point of each controller; a named hierarchy counts as one.

    So does that of version 2 beside them (hybrid): runc makes groups there as well.
    """
    found = {}
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        text = error_text(error)
        raise GcsError(f"cannot list the cgroup hierarchies: {text}") from error
    for name in names:
        path = f"{root}/{name}"
        # Hierarchies of several controllers have a symbolic link for each of them.
        if os.path.islink(path) or not os.path.exists(f"{path}/cgroup.procs"):
            continue
        found.update(dict.fromkeys(name.split(","), path))
    return found


class V1Cgroup(Cgroup):
    """See :class:`Cgroup`."""

    __slots__ = ("_hierarchies", "_page_sizes", "_root")

    version: ClassVar[str] = "v1"

    def __init__(
        self, root: str, path: str, hierarchies: Mapping[str, str], page_sizes: list[str]
    ) -> None:
        super().__init__(path)
        self._root = root
        self._hierarchies = hierarchies
        self._page_sizes = page_sizes

    def directories(self) -> list[str]:
        """See Cgroup.directories."""
        return [f"{mount}{self.path}" for mount in dict.fromkeys(self._hierarchies.values())]

    def directory(self, controller: str) -> str:
        """Return the directory in the hierarchy of a controller.

        Raises:
            GcsError: The controller is not mounted.
        """
        mount = self._hierarchies.get(controller)
        if mount is None:
            raise GcsError(
                f"control group {self.path}: no cgroup v1 {controller} controller is mounted "
                f"below {self._root}"
            )
        return f"{mount}{self.path}"

    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """See Cgroup.create."""
        with ExitStack() as undo:
            for mount in dict.fromkeys(self._hierarchies.values()):
                is_cpuset = self._hierarchies.get("cpuset") == mount
                above = ""
                for name in self.path.split("/")[1:]:
                    _make_directory(f"{mount}{above}/{name}", undo)
                    if is_cpuset:
                        self._inherit_cpuset(above, f"{above}/{name}")
                    above = f"{above}/{name}"
            self.apply(resources)
            undo.pop_all()

    def apply(self, resources: Mapping[str, Any] | None) -> None:
        """See Cgroup.apply."""
        if resources is None:
            return
        from gcs.cgroup.resources import read_resources  # not needed to start

        document = read_resources(resources)
        if document.unified:
            names = ", ".join(document.unified)
            raise GcsError(f"control group {self.path}: {names} can be set on cgroup v2 only")
        self._set_memory(document.memory)
        self._set_cpu(document.cpu)
        if document.pids.limit:
            limit = str(document.pids.limit) if document.pids.limit > 0 else "max"
            self._set_file("pids", "pids.max", limit)
        self._set_block_io(document.block_io)
        for huge in document.hugepage_limits:
            name = f"hugetlb.{huge.page_size}.limit_in_bytes"
            self._set_file("hugetlb", name, str(huge.limit))

    def read_metrics(self) -> dict[str, Any]:
        """See Cgroup.read_metrics."""
        directories = {
            controller: f"{mount}{self.path}" for controller, mount in self._hierarchies.items()
        }
        present = {key: path for key, path in directories.items() if os.path.isdir(path)}
        metrics = metrics_v1.read_metrics(present, self._page_sizes)
        self.require()  # or some of them are missing
        return metrics

    def memory_limit(self) -> int:
        """See Cgroup.memory_limit."""
        self.require()
        limit = read_number(f"{self.memory_directory()}/memory.limit_in_bytes")
        return MAX if limit >= _NO_LIMIT else limit

    def protect_memory(self, size: int) -> None:
        """See Cgroup.protect_memory."""
        self._set("memory", soft_limit_in_bytes=size)

    def memory_usage(self) -> int:
        """See Cgroup.memory_usage."""
        self.require()
        if "memory" not in self._hierarchies:
            return 0
        return read_number(f"{self.memory_directory()}/memory.usage_in_bytes")

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills; the kernel counts for each group alone."""
        if "memory" not in self._hierarchies:
            return 0
        return sum(
            read_table(f"{path}/memory.oom_control").get("oom_kill", 0)
            for path, _, _ in os.walk(self.memory_directory())
        )

    def memory_directory(self) -> str:
        """See Cgroup.memory_directory."""
        return self.directory("memory")

    def _process_directory(self) -> str:
        candidates = [self._hierarchies[name] for name in _LISTING if name in self._hierarchies]
        candidates += self._hierarchies.values()
        paths = [f"{mount}{self.path}" for mount in candidates]
        return next(filter(os.path.isdir, paths), paths[0])

    def _kill_at_once(self) -> bool:
        """Thaw: the signal does not reach frozen processes."""
        if "freezer" in self._hierarchies:
            for path, _, _ in os.walk(self.directory("freezer")):
                state = f"{path}/freezer.state"
                if read_text(state).strip() not in ("", "THAWED"):
                    self._write(state, "THAWED", "thawing")
        return False

    def _write_memory_limit(self, limit: int) -> None:
        try:
            self._set("memory", limit_in_bytes=limit)
        except GcsError as error:
            if getattr(error.__cause__, "errno", None) != errno.EBUSY:
                raise
            raise GcsError(
                f"control group {self.path}: memory limit {limit} is too low: {self.memory_usage()}"
                " bytes are in use and can't be reclaimed"
            ) from error

    # --- limits ---------------------------------------------------------------------------------

    def _set_memory(self, memory: Memory) -> None:
        changes: list[dict[str, int]] = []
        if memory.limit:
            changes.append({"limit_in_bytes": memory.limit})
        if memory.swap and (memory.swap > 0 or self._accounts_swap()):
            if not self._accounts_swap():
                raise GcsError(
                    f"control group {self.path}: swap can't be limited: the kernel does not "
                    "account for it (boot with swapaccount=1)"
                )
            changes.append({"memsw_limit_in_bytes": memory.swap})
            # Memory alone can never be above both together, not even for a moment.
            total = read_number(f"{self.memory_directory()}/memory.memsw.limit_in_bytes")
            if memory.limit < 0 or memory.limit > total:
                changes.reverse()
        if memory.reservation:
            changes.append({"soft_limit_in_bytes": memory.reservation})
        if memory.swappiness is not None:
            changes.append({"swappiness": memory.swappiness})
        for change in changes:
            self._set("memory", **change)

    def _accounts_swap(self) -> bool:
        return os.path.exists(f"{self.memory_directory()}/memory.memsw.limit_in_bytes")

    def _set_cpu(self, cpu: Cpu) -> None:
        if cpu.shares > 0:
            self._set("cpu", shares=cpu.shares)
        if cpu.period:
            self._set("cpu", cfs_period_us=cpu.period)
        if cpu.quota:
            self._set("cpu", cfs_quota_us=cpu.quota if cpu.quota > 0 else -1)
        for name, value in (("cpuset.cpus", cpu.cpus), ("cpuset.mems", cpu.mems)):
            if value:
                self._set_file("cpuset", name, value)

    def _set_block_io(self, io: BlockIo) -> None:
        if io.weight:
            self._set_io_weight(io.weight)
        for name, devices in (
            ("read_bps", io.throttle_read_bps_device),
            ("write_bps", io.throttle_write_bps_device),
            ("read_iops", io.throttle_read_iops_device),
            ("write_iops", io.throttle_write_iops_device),
        ):
            for device in devices:
                value = f"{device.major}:{device.minor} {device.rate}"
                self._set_file("blkio", f"blkio.throttle.{name}_device", value)

    def _set_io_weight(self, weight: int) -> None:
        """Set it for the CFQ scheduler (Linux before 5.0) or BFQ; without either, warn."""
        directory = self.directory("blkio")
        if os.path.exists(f"{directory}/blkio.weight"):
            self._set("blkio", weight=weight)
        elif os.path.exists(f"{directory}/blkio.bfq.weight"):
            self._set_file("blkio", "blkio.bfq.weight", str(weight))
        else:
            warn_of_io_weight(self.path, weight)

    def _inherit_cpuset(self, above: str, path: str) -> None:
        """Give a new group its parent's processors: without any it takes no process."""
        parent, child = self._controller("cpuset", above), self._controller("cpuset", path)
        try:
            for name in ("cpus", "mems"):
                if not getattr(child, name):
                    setattr(child, name, getattr(parent, name))
        except OSError as error:
            text = error_text(error)
            raise GcsError(f"control group {path}: inheriting cpuset.{name}: {text}") from error

    def _set(self, controller: str, **settings: int) -> None:
        """Set typed values of a controller that cgroupspy knows."""
        self.directory(controller)
        node = self._controller(controller, self.path)
        for name, value in settings.items():
            try:
                setattr(node, name, value)
            except OSError as error:
                self.require()
                raise GcsError(
                    f"control group {self.path}: {controller} {name} can't be set to {value}: "
                    f"{error.strerror}"
                ) from error

    def _set_file(self, controller: str, name: str, value: str) -> None:
        path = f"{self.directory(controller)}/{name}"
        if not os.path.exists(path):
            self.require()
            raise GcsError(
                f"control group {self.path}: {name} can't be set to {value!r}: the kernel has no "
                "such setting here"
            )
        self._write(path, value, f"setting {name}")

    def _controller(self, controller: str, path: str) -> Any:
        from cgroupspy.nodes import Node  # only where version 1 is in use

        mount = Node(controller, parent=Node(self._root))
        return Node(path.strip("/"), parent=mount).controller if path else mount.controller


def _make_directory(path: str, undo: ExitStack) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise GcsError(f"cannot make a control group: {error_text(error)}") from error
    undo.callback(os.rmdir, path)
