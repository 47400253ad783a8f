"""The number of cores that this process may use, which a container or a batch system may limit."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """The cores that the scheduler gives to this process, limited by the CPU quota of its container; at least 1.

    cgroups  the folder where the quota lies, as the container sees it: `cpu.max` (cgroup v2), or `cpu.cfs_quota_us` and
             `cpu.cfs_period_us` there or in its folder `cpu` (v1). A quota of two and a half cores counts as three.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, cores if quota is None else min(cores, quota))


def _quota(cgroups: Path) -> int | None:
    """The quota in cores, rounded up; None without a quota."""
    for files in (("cpu.max",), *((f"{at}cpu.cfs_quota_us", f"{at}cpu.cfs_period_us") for at in ("cpu/", ""))):
        try:
            quota, period = map(int, " ".join((cgroups / name).read_text() for name in files).split())
        except (OSError, ValueError):  # no such file, or "max", which is no limit
            continue
        if quota > 0 and period > 0:  # -1: no limit
            return -(-quota // period)
    return None
