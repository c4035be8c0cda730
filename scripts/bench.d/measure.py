"""Runs a command and says what it took: wall time, CPU time of the client and of the server, peak
memory. Medians and their noise."""

import dataclasses
import hashlib
import os
import socket
import statistics
import subprocess
import time


@dataclasses.dataclass
class Run:
    wall: float
    client_cpu: float
    server_cpu: float
    peak_kib: int
    bytes: int = 0
    status: int = 0

    @property
    def cpu(self):
        return self.client_cpu + self.server_cpu


class CommandFailed(Exception):
    pass


def run(server, command, environment=None, cwd=None, log=None, accept=(0,)):
    """`command` is for bash with pipefail, and the CPU time of its children is counted with it."""
    with open(log or os.devnull, "ab") as output:
        server_before, begun = server.cpu_seconds(), time.monotonic()
        process = subprocess.Popen(["bash", "-o", "pipefail", "-c", command], cwd=cwd, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output, env={**server.environment, **(environment or {})})
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accept:
        raise CommandFailed(f"exit code {process.returncode}: {command}; see {log}")
    # A backend that has just ended is counted once the postmaster has reaped it.
    time.sleep(0.1)
    return Run(wall, usage.ru_utime + usage.ru_stime, server.cpu_seconds() - server_before, usage.ru_maxrss,
               status=process.returncode)


def added(runs):
    """Several commands in a row, as one."""
    return Run(sum(r.wall for r in runs), sum(r.client_cpu for r in runs), sum(r.server_cpu for r in runs),
               max(r.peak_kib for r in runs), sum(r.bytes for r in runs))


def size_of(path):
    if os.path.isdir(path):
        return sum(os.path.getsize(os.path.join(root, f)) for root, _, files in os.walk(path) for f in files)
    return os.path.getsize(path)


def spread(values):
    middle = statistics.median(values)
    return {"median": round(middle, 4), "min": round(min(values), 4), "max": round(max(values), 4),
            "mad": round(statistics.median(abs(v - middle) for v in values), 4), "n": len(values)}


def summary(runs):
    return {"wall_s": spread([r.wall for r in runs]), "cpu_s": spread([r.cpu for r in runs]),
            "client_cpu_s": spread([r.client_cpu for r in runs]), "server_cpu_s": spread([r.server_cpu for r in runs]),
            "peak_mib": round(max(r.peak_kib for r in runs) / 1024, 1), "bytes": max(r.bytes for r in runs)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def calibration():
    """Seconds for a fixed piece of work: how much they vary is how much the machine is disturbed."""
    block, begun = bytes(1 << 20), time.monotonic()
    digest = hashlib.sha256()
    for _ in range(160):
        digest.update(block)
    return time.monotonic() - begun
