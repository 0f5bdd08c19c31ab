"""A process's resident memory: its peak, and what it holds now."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return the most MiB that this process has held.

    On Linux `getrusage` also counts what the parent held when it started this
    process, so the figure comes from ``/proc`` there.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def held_mib() -> float:
    """Return the MiB that this process holds now; where that is not told, its peak so far."""
    found = _status("VmRSS")
    return peak_mib() if found is None else found


def _status(name: str) -> float | None:
    """Return a figure of Linux's ``/proc/self/status`` in MiB, None on other systems."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def release_free() -> None:
    """Hand memory that was freed back to the system, where its C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def restart_peak() -> float:
    """Forget the peak so far, where that can be done (Linux); return the MiB held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return held_mib()
