"""Keeps the clock of the VM with the host's: chronyd on a PTP clock of the hypervisor (spec 4.12).

A VM that was paused or moved wakes up with the time at which it fell asleep.  chronyd compares
with the host's clock every eight seconds (``poll 3``) and sets the VM's right at once when it is
off by more than 0.1 s.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcs.runtime.children import Child, Children

logger = logging.getLogger(__name__)

#: Names of clocks that follow the host's, the preferred one first: Hyper-V's and KVM's.
CLOCK_NAMES: Final = ("hyperv", "KVM virtual PTP")
CHRONYD: Final = "chronyd"

_CONFIGURATION: Final = (
    "refclock PHC {device} poll 3 dpoll -2 offset 0 stratum 2\nmakestep 0.1 -1\n"
)


def configuration(device: str) -> str:
    """Return what chronyd is to do with a clock; the reference's.

    Every eight seconds (``poll 3``) it compares, and sets the time at once when it is off by more
    than 0.1 s, however often that happens.
    """
    return _CONFIGURATION.format(device=device)


class TimePaths(NamedTuple):
    """Where things are; others than the machine's in tests."""

    clocks: str = "/sys/class/ptp"
    devices: str = "/dev"
    configuration: str = "/tmp/chronyd.conf"  # the reference's
    clock_sources: str = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
    program: str = CHRONYD
    module_loader: str = "modprobe"


class BackOff(NamedTuple):
    """How long to wait before a program that has ended is started again, in seconds.

    Attributes:
        first: The first time.
        factor: Each time so much longer.
        longest: Never longer than this.
        steady: A program that has run so long begins with `first` again.
    """

    first: float = 0.5
    factor: float = 1.5
    longest: float = 600.0
    steady: float = 60.0

    def next(self, last: float, ran: float) -> float:
        """Return the next pause.

        Args:
            last: The pause before; 0: there was none.
            ran: How long the program has run after it.
        """
        if last == 0 or ran >= self.steady:
            return self.first
        return min(last * self.factor, self.longest)


class TimeSync:
    """Runs chronyd for as long as the agent runs.

    Args:
        children: Starts and watches it.
        paths: Where things are.
        back_off: When to start it again.
    """

    def __init__(
        self,
        children: Children,
        *,
        paths: TimePaths | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        self._children = children
        self._paths = paths or TimePaths()
        self._back_off = back_off or BackOff()
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for a clock and run chronyd, in the background; what is missing is a warning.

        The VM works without, only its clock drifts, and stands still while the VM is paused.
        """
        self._task = asyncio.get_running_loop().create_task(self._run(), name="time")

    async def close(self) -> None:
        """Stop chronyd, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if self._child is not None:
            self._child.kill()
            await self._child.wait()

    def _write_configuration(self, device: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._paths.configuration, flags, 0o644)
        with open(descriptor, "w") as file:
            file.write(configuration(device))

    async def _run(self) -> None:
        device = find_clock(self._paths)
        if device is None and _is_kvm(self._paths):
            await self._load_kvm_clock()
            device = find_clock(self._paths)
        if device is None:
            logger.warning(
                "the clock of the VM does not follow the host's: no PTP clock of a hypervisor",
                extra={"directory": self._paths.clocks, "wanted": " or ".join(CLOCK_NAMES)},
            )
            return
        try:
            self._write_configuration(device)
        except OSError as error:
            logger.warning(
                "the clock of the VM does not follow the host's: no configuration for chronyd",
                extra={"path": self._paths.configuration, "error": error.strerror},
            )
            return
        logger.info("the clock of the VM follows the host's", extra={"device": device})
        await self._run_forever((self._paths.program, "-n", "-f", self._paths.configuration))

    async def _load_kvm_clock(self) -> None:
        """Load the driver of KVM's clock; unlike Hyper-V's no device asks for it."""
        try:
            self._child = self._children.spawn(
                (self._paths.module_loader, "-q", "ptp_kvm"), stdout=1, stderr=2
            )
        except OSError as error:
            logger.warning("ptp_kvm can't be loaded", extra={"error": error.strerror})
            return
        await self._child.wait()
        self._child = None

    async def _run_forever(self, command: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            started = loop.time()
            try:
                # Its output becomes log entries, as everything that is written to 1 and 2.
                self._child = self._children.spawn(command, stdout=1, stderr=2)
            except OSError as error:
                fields = {"command": " ".join(command), "error": error.strerror}
                logger.warning("the time can't be synchronised", extra=fields)
                if isinstance(error, FileNotFoundError | PermissionError):
                    return  # will not be better the next time
            else:
                status = await self._child.wait()
                self._child = None
                how = f"signal {status.signal}" if status.signal else f"status {status.code}"
                fields = {"command": " ".join(command), "error": how}
                logger.warning("the time synchronisation ended and is started again", extra=fields)
            pause = self._back_off.next(pause, loop.time() - started)
            await asyncio.sleep(pause)


def _is_kvm(paths: TimePaths) -> bool:
    """Tell whether KVM is the hypervisor, which then offers a clock."""
    try:
        with open(paths.clock_sources) as file:
            return "kvm-clock" in file.read().split()
    except OSError:
        return False  # no such thing on this machine


def find_clock(paths: TimePaths) -> str | None:
    """Return the device of the best clock that follows the host's, or ``None``."""
    found: dict[str, str] = {}
    try:
        names = sorted(os.listdir(paths.clocks))
    except FileNotFoundError:
        return None  # a kernel without PTP
    for name in names:
        try:
            with open(f"{paths.clocks}/{name}/clock_name") as file:
                found.setdefault(file.read().rstrip("\n"), f"{paths.devices}/{name}")
        except OSError as error:
            logger.warning("PTP clock %s has no readable name: %s", name, error.strerror)
    return next((found[name] for name in CLOCK_NAMES if name in found), None)
