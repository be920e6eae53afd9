"""Control groups of versions 1 and 2 behind one interface (floor 3; spec 1.8, 3.9, 4.7).

Use::

    manager = detect()                          # V1Manager or V2Manager, by what is mounted
    manager.prepare()                           # once, at start
    pods = manager.group("/pods")               # any group, whoever made it
    pods.create()
    pods.set_memory_limit(pods_memory_limit(total_memory(), reserve))
    manager.group("/pods/<sandbox>").create(specification["linux"]["resources"])

    group = manager.group(container.cgroups_path)
    group.metrics()                             # for GetProperties; read_metrics() has all
    group.process_ids()
    group.oom_kills()                           # after the exit, before the removal
    group.delete(kill=True)

All of it is plain file access that blocks, for less than a millisecond as a rule: call it in a
thread.  On the event loop there are :class:`gcs.cgroup.events.MemoryEvents`, which calls back when
the kernel killed a process for want of memory, and :func:`gcs.cgroup.memory_log.log_memory_event`.
"""

from gcs.cgroup.detection import detect
from gcs.cgroup.files import CgroupGoneError
from gcs.cgroup.limits import pods_memory_limit, total_memory

__all__ = ["CgroupGoneError", "detect", "pods_memory_limit", "total_memory"]
