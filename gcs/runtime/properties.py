"""Properties of a container, read from its control groups (spec 1.8, 4.10).

No runtime is started for them: hosts ask every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from gcs.protocol.responses import ProcessDetails, Properties
from gcs.protocol.trace import span

if TYPE_CHECKING:
    from gcs.cgroup.cgroup import Cgroup
    from gcs.protocol.requests import PropertyQuery

logger = logging.getLogger(__name__)

PROCESS_LIST: Final = "ProcessList"
STATISTICS: Final = "Statistics"


async def read_properties(group: Cgroup, query: PropertyQuery) -> Properties:
    """Return what a query names; a type that is not known is left out, with a log line.

    Args:
        group: Control group of the container.
        query: Types of properties.

    Raises:
        GcsError: The control group is gone, or can't be read.
    """
    properties = Properties()
    for name in query.property_types:
        if name == PROCESS_LIST:
            pids = await asyncio.to_thread(group.process_ids)
            properties.process_list = [ProcessDetails(process_id=pid) for pid in pids]
        elif name == STATISTICS:
            with span("opengcs::Container::GetStats"):
                properties.metrics = await asyncio.to_thread(group.metrics)
        else:
            logger.warning("property type %r is not supported", name[:100])
    return properties
