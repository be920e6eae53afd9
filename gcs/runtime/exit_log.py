"""Log entries about processes that have ended, and about memory that was too little."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from gcs.cgroup.cgroup import Cgroup

logger = logging.getLogger(__name__)


class ExitLog:
    """Tells how the processes of one container ended.

    That the kernel killed one for want of memory is to be seen in the control group alone.

    Args:
        container_id: The container.
        cgroup: Its control group.
    """

    __slots__ = ("_cgroup", "_container_id", "_oom_kills")

    def __init__(self, container_id: str, cgroup: Cgroup) -> None:
        self._container_id = container_id
        self._cgroup = cgroup
        self._oom_kills = 0

    @property
    def oom_kills(self) -> int:
        """How many processes the kernel has killed for want of memory, as far as was noted."""
        return self._oom_kills

    async def note(self, pid: int, code: int | None) -> None:
        """Log the end of a process, and memory kills since the last time.

        Args:
            pid: The process.
            code: Its exit code; ``None`` when it is not known.
        """
        fields = {"cid": self._container_id, "pid": pid, "code": code}
        logger.debug("process exited", extra=fields)
        if code == 0:
            return
        try:
            kills = await asyncio.to_thread(self._cgroup.oom_kills)
        except GcsError as error:
            logger.warning("container %s: %s", self._container_id, error)
            return
        if kills > self._oom_kills:
            logger.warning(
                "container ran out of memory: the kernel killed processes of it",
                extra={**fields, "oom-kills": kills - self._oom_kills},
            )
            self._oom_kills = kills
