"""`k1ops worker` beside Conductor's own Python worker (`conductor-python`): the same workflows of one
task, through one worker process, on one server of tier 2 that `k1ops start` brings up.

Both run the same program for each task and answer how it ended. k1ops writes its rows of the K1 tables
besides. The workflows wait in the server before the worker starts; the time is the server's own, from the
first task that a worker took to the last workflow that completed, so the start of neither is counted. Of the
worker's memory the peak of its processes together is taken. The floor is what the server alone takes: no worker
can be faster than all CPUs together do the server's part.
"""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import time

import measure
from conductor_seed import Api

TASK, WORKFLOW = "bench_agent", "bench_worker"
LIMIT = 900
WARM_UP = 3
PYTHON_WORKER = pathlib.Path(__file__).with_name("python_worker.py")


class Ground:
    """A server of tier 2 in a folder of its own."""

    def __init__(self, k1ops, folder):
        folder.mkdir(parents=True)
        port = measure.free_port()
        (folder / "k1ops.toml").write_text(
            f"tier = 'jar'\n[ports]\nconductor = {port}\n[agents.{TASK}]\ncommand = ['true']\ntimeout = 60\n")
        self.binary, self.folder, self.api = k1ops, folder, Api(port, timeout=60)
        # The benchmark's own settings are not k1ops'.
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith("K1OPS_")}

    def k1ops(self, *arguments):
        subprocess.run([self.binary, "-q", *arguments], cwd=self.folder, env=self.environment, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def define(self):
        self.api.call("POST", "/metadata/taskdefs", [{"name": TASK, "retryCount": 0, "timeoutSeconds": 600, "responseTimeoutSeconds": 300,
                                                 "timeoutPolicy": "TIME_OUT_WF", "ownerEmail": "bench@example.com"}])
        self.api.call("PUT", "/metadata/workflow", [{"name": WORKFLOW, "version": 1, "schemaVersion": 2, "ownerEmail": "bench@example.com",
                                                "tasks": [{"name": TASK, "taskReferenceName": "only", "type": "SIMPLE",
                                                           "inputParameters": {}}]}])

    def enqueue(self, count):
        def one(number):
            return self.api.call("POST", f"/workflow/{WORKFLOW}?correlationId=bench-{number}", {})
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(count)))

    def is_done(self):
        return self.api.call("GET", f"/workflow/running/{WORKFLOW}") == []

    def times(self, ids):
        """Milliseconds from the first task taken to the last workflow's end; every task done once."""
        begun, ended = [], []
        for one in ids:
            workflow = self.api.call("GET", f"/workflow/{one}")
            tasks = workflow["tasks"]
            if workflow["status"] != "COMPLETED" or len(tasks) != 1:
                raise SystemExit(f"workflow {one} is {workflow['status']} with {len(tasks)} tasks")
            begun.append(tasks[0]["startTime"])
            ended.append(workflow["endTime"])
        return max(ended) - min(begun)


def workers(bench, count, rounds, threads, say):
    ground = Ground(bench.k1ops, bench.scratch / "workers")
    python = pathlib.Path(os.environ["BENCH_CACHE"]) / "conductor-python/bin/python"
    ours = [bench.k1ops, "-q", "worker", "--jobs", str(threads)]
    both = {"k1ops worker": ours, "conductor-python": [python, PYTHON_WORKER, ground.api.base, TASK, str(threads)],
            "conductor-python, as it comes (1 thread)": [python, PYTHON_WORKER, ground.api.base, TASK, "1"]}
    runs = {name: [] for name in both}
    ground.k1ops("start")
    try:
        ground.define()
        # The server's own code is compiled while it works, so the first runs are not counted.
        for _ in range(WARM_UP):
            measured(ground, [str(part) for part in both["conductor-python"]], count)
        for number in range(rounds):
            for name, command in list(both.items())[:: 1 if number % 2 == 0 else -1]:
                run = measured(ground, [str(part) for part in command], count)
                runs[name].append(run)
                say(f"round {number + 1}: {name}: {count / run['seconds']:.0f} workflows/s, {run['peak_mib']:.0f} MiB, "
                    f"CPU of the server {run['server_cpu_ms']:.1f} and of everything {run['cpu_ms']:.1f} ms for each")
    finally:
        ground.k1ops("stop")
    return {"workflows": count, "threads": threads, "runs": {name: summary(done, count) for name, done in runs.items()}}


def measured(ground, command, count):
    ids = ground.enqueue(count)
    cpu, server_cpu = cpu_of_all(), cpu_of_servers()
    worker = subprocess.Popen(command, cwd=ground.folder, env=ground.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    peak, deadline = 0, time.monotonic() + LIMIT
    try:
        while not ground.is_done():
            if worker.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} ended or took more than {LIMIT} s")
            peak = max(peak, memory_of(worker.pid))
            # To list what runs costs the server as much as a task.
            time.sleep(0.5)
        cpu, server_cpu = cpu_of_all() - cpu, cpu_of_servers() - server_cpu
    finally:
        os.killpg(worker.pid, signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    return {"seconds": ground.times(ids) / 1000, "peak_mib": peak / 1024,
            "cpu_ms": 1000 * cpu / count, "server_cpu_ms": 1000 * server_cpu / count}


def cpu_of_all():
    """CPU seconds of this machine: of users, their niced work, the system and its interrupts."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(fields[at]) for at in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def cpu_of_servers():
    """CPU seconds of all servers that run here, of which the benchmark's is the only one that works."""
    seconds = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name == "java":
            seconds += sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def memory_of(pid):
    """KiB of a process and those below it; what they share is counted once (PSS)."""
    try:
        roll = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in roll.splitlines() if line.startswith("Pss:")), 0)
    return own + sum(memory_of(int(child)) for child in children)


def summary(runs, count):
    return {"seconds": measure.spread([r["seconds"] for r in runs]), "per_second": round(count / sorted(r["seconds"] for r in runs)[len(runs) // 2], 1),
            "peak_mib": round(max(r["peak_mib"] for r in runs), 1),
            "server_cpu_ms": measure.spread([r["server_cpu_ms"] for r in runs]), "cpu_ms": measure.spread([r["cpu_ms"] for r in runs])}
