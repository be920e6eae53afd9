"""Made-up control groups: files as kernels have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A container with a group below it; Linux 6.1, cgroup v2.
V2 = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "cgroup.procs": "1\n",
    "pods/c/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "pods/c/cgroup.procs": "30\n4\n",
    "pods/c/below/cgroup.procs": "0\n5\n",
    "pods/c/memory.current": "999424\n",
    "pods/c/memory.max": "max\n",
    "pods/c/memory.peak": "12840960\n",
    "pods/c/memory.swap.current": "4096\n",
    "pods/c/memory.swap.max": "1048576\n",
    "pods/c/memory.stat": "anon 45056\nfile 688128\nkernel 262144\nkernel_stack 16384\n"
    "pagetables 81920\nsock 512\nfile_mapped 634880\nfile_dirty 8192\nfile_writeback 4096\n"
    "anon_thp 2097152\ninactive_anon 40960\nactive_anon 4096\ninactive_file 675840\n"
    "active_file 12288\nunevictable 100\npgfault 656\npgmajfault 5\n",
    "pods/c/memory.events": "low 0\nhigh 0\nmax 9\noom 7\noom_kill 3\noom_group_kill 0\n",
    "pods/c/cpu.stat": "usage_usec 856568\nuser_usec 320615\nsystem_usec 535953\n"
    "nr_periods 9\nnr_throttled 2\nthrottled_usec 30\n",
    "pods/c/pids.current": "3\n",
    "pods/c/pids.max": "100\n",
    "pods/c/hugetlb.2MB.current": "2097152\n",
    "pods/c/hugetlb.2MB.max": "4194304\n",
    "pods/c/hugetlb.2MB.events": "max 6\n",
    "pods/c/hugetlb.1GB.current": "0\n",
    "pods/c/hugetlb.1GB.max": "max\n",
    "pods/c/hugetlb.1GB.events": "max 0\n",
    "pods/c/io.stat": "8:16 rbytes=90112 wbytes=4096 rios=3 wios=1 dbytes=0 dios=0\n7:0 \n",
    "pods/c/rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "pods/c/rdma.max": "mlx4_0 hca_handle=3 hca_object=max\n",
}

_MEMORY_STAT = (
    "cache 121999360\nrss 1613824\nrss_huge 2097152\nshmem 0\nmapped_file 1105920\ndirty 45056\n"
    "writeback 4096\nswap 0\npgpgin 6619395\npgpgout 6597080\npgfault 7106779\npgmajfault 1698\n"
    "inactive_anon 1605632\nactive_anon 8192\ninactive_file 22441984\nactive_file 99557376\n"
    "unevictable 0\nhierarchical_memory_limit 67108864\nhierarchical_memsw_limit 134217728\n"
    "total_cache 1\ntotal_rss 2\ntotal_rss_huge 3\ntotal_mapped_file 4\ntotal_dirty 5\n"
    "total_writeback 6\ntotal_pgpgin 7\ntotal_pgpgout 8\ntotal_pgfault 9\ntotal_pgmajfault 10\n"
    "total_inactive_anon 11\ntotal_active_anon 12\ntotal_inactive_file 13\ntotal_active_file 14\n"
    "total_unevictable 15\n"
)

#: The same on cgroup v1.
V1 = {
    **{f"{name}/cgroup.procs": "1\n" for name in ("memory", "pids", "cpu,cpuacct", "blkio")},
    **{f"{name}/cgroup.procs": "1\n" for name in ("hugetlb", "rdma", "systemd")},
    "pids/pods/c/cgroup.procs": "30\n4\n",
    "pids/pods/c/below/cgroup.procs": "5\n",
    "pids/pods/c/pids.current": "3\n",
    "pids/pods/c/pids.max": "100\n",
    "memory/pods/c/memory.stat": _MEMORY_STAT,
    "memory/pods/c/memory.usage_in_bytes": "1000\n",
    "memory/pods/c/memory.limit_in_bytes": "67108864\n",
    "memory/pods/c/memory.max_usage_in_bytes": "2000\n",
    "memory/pods/c/memory.failcnt": "6\n",
    "memory/pods/c/memory.memsw.usage_in_bytes": "1100\n",
    "memory/pods/c/memory.memsw.limit_in_bytes": "134217728\n",
    "memory/pods/c/memory.memsw.max_usage_in_bytes": "2100\n",
    "memory/pods/c/memory.memsw.failcnt": "1\n",
    "memory/pods/c/memory.kmem.usage_in_bytes": "300\n",
    "memory/pods/c/memory.kmem.limit_in_bytes": "9223372036854771712\n",
    "memory/pods/c/memory.kmem.max_usage_in_bytes": "400\n",
    "memory/pods/c/memory.kmem.failcnt": "0\n",
    "memory/pods/c/memory.kmem.tcp.usage_in_bytes": "5\n",
    "memory/pods/c/memory.kmem.tcp.limit_in_bytes": "9223372036854771712\n",
    "memory/pods/c/memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n",
    "memory/pods/c/below/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "cpu,cpuacct/pods/c/cpuacct.usage": "7000000000\n",
    "cpu,cpuacct/pods/c/cpuacct.usage_percpu": "3000000000 4000000000 \n",
    "cpu,cpuacct/pods/c/cpuacct.stat": "user 200\nsystem 100\n",
    "cpu,cpuacct/pods/c/cpu.stat": "nr_periods 9\nnr_throttled 1\nthrottled_time 3000\n",
    "blkio/pods/c/blkio.throttle.io_service_bytes_recursive": "8:16 Read 4096\n8:16 Write 0\n"
    "8:16 Total 4096\nTotal 4096\n",
    "blkio/pods/c/blkio.throttle.io_serviced_recursive": "8:16 Read 1\nTotal 1\n",
    "hugetlb/pods/c/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/pods/c/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "hugetlb/pods/c/hugetlb.2MB.limit_in_bytes": "9223372036852678656\n",
    "hugetlb/pods/c/hugetlb.2MB.failcnt": "6\n",
    "rdma/pods/c/rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma/pods/c/rdma.max": "mlx4_0 hca_handle=max hca_object=max\n",
}


def plant(root: Path, files: dict[str, str]) -> str:
    """Write files below a directory and return its path."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return str(root)
