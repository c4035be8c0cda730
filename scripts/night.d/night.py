"""Plays a night on scratch stacks, in a mount namespace of its own, and judges it.

The judge goes by what it sees itself: messages that came to its own webhook, archives on the disk,
`k1ops verify`, and the memory that the kernel says the daemon has.
"""

import argparse
import collections
import http.server
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

KEEP = 4
FLAT = 2 * 1024 * 1024


class Webhook:
    """The far side of the messages."""

    def __init__(self):
        self.heard = collections.defaultdict(list)
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.heard[self.path.strip("/")].append(json.loads(body)["event"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = "http://127.0.0.1:%d" % self.server.server_port


class Stack:
    """A scratch stack whose repository is on a disk of its own."""

    def __init__(self, folder, name, binary, webhook, quick):
        self.base, self.name, self.binary = folder / name, name, binary
        self.disk = self.base / "disk"
        self.disk.mkdir(parents=True)
        self.port = free_port()
        self.mount()
        (self.base / "k1ops.toml").write_text(
            f"tier = 'jar'\ntimezone = 'UTC'\n[ports]\nconductor = {self.port}\n"
            f"[repository]\npath = 'disk/archives'\n"
            f"[backup.keep]\nlast = {KEEP}\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\n"
            f"[schedule]\nat = '* * * * *'\njitter = ''\ndrill = 'never'\n"
            f"[notify]\nwebhook = '{webhook.address}/{name}'\n"
        )
        self.seen = set()
        self.wrong = []
        if quick or name == "daemon":
            self.fill()

    def fill(self):
        data = self.base / ".conductor" / "data"
        data.mkdir(parents=True)
        with sqlite3.connect(data / "k1.db") as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE work (id INTEGER PRIMARY KEY, what BLOB)")
            db.executemany("INSERT INTO work (what) VALUES (?)", [(os.urandom(300),)] * 500)

    def mount(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", self.disk], check=True)

    def run(self, *arguments):
        done = subprocess.run(
            [self.binary, *arguments], cwd=self.base, capture_output=True, text=True, env=ENVIRONMENT
        )
        return done.returncode, done.stdout, done.stderr

    def archives(self):
        return {p.name for p in (self.disk / "archives").glob("*.tar")}

    def runs(self):
        try:
            text = (self.base / ".conductor/run/schedule.json").read_text()
        except FileNotFoundError:
            return []
        return json.loads(text)["runs"]

    def look(self, is_away):
        """No archive goes but by pruning, which leaves the newest ones."""
        if is_away:
            return
        now = self.archives()
        lost = self.seen - now
        if len(now) < min(KEEP, len(self.seen)) or (lost and now and max(lost) > min(now)):
            self.wrong.append(f"{self.name}: archives were lost: {sorted(lost)}")
        self.seen |= now


def free_port():
    with http.server.HTTPServer(("127.0.0.1", 0), None) as server:
        return server.server_port


class Disk:
    """What happens to the repositories' disks."""

    def __init__(self, stacks):
        self.stacks, self.is_away, self.aside = stacks, False, []

    def go_away(self):
        """The disk is taken off: its folder is there, and empty."""
        for stack in self.stacks:
            aside = stack.base / "aside"
            aside.mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", stack.disk, aside], check=True)
            subprocess.run(["umount", "--lazy", stack.disk], check=True)
        self.is_away = True

    def come_back(self):
        for stack in self.stacks:
            aside = stack.base / "aside"
            if any(stack.disk.iterdir()):
                stack.wrong.append(f"{stack.name}: something was written where no disk is")
            subprocess.run(["mount", "--bind", aside, stack.disk], check=True)
            subprocess.run(["umount", "--lazy", aside], check=True)
        self.is_away = False

    def fill_up(self):
        for stack in self.stacks:
            with open(stack.disk / "ballast", "wb", buffering=0) as ballast:
                try:
                    while True:
                        ballast.write(bytes(1 << 16))
                except OSError:
                    pass

    def empty(self):
        for stack in self.stacks:
            (stack.disk / "ballast").unlink()


def load(stack, stop):
    """Writes into the stack's database as a busy stack does."""
    while not stop.is_set():
        with sqlite3.connect(stack.base / ".conductor/data/k1.db", timeout=30) as db:
            db.execute("INSERT INTO work (what) VALUES (?)", (os.urandom(300),))
        time.sleep(0.02)


def workflows(stack, stop):
    """Starts workflows on a real Conductor."""
    api = f"http://127.0.0.1:{stack.port}/api"

    def post(path, body):
        request = urllib.request.Request(
            api + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=30).read()

    task = {"name": "night", "ownerEmail": "a@b.invalid", "retryCount": 0, "timeoutSeconds": 0,
            "responseTimeoutSeconds": 60}
    step = {"name": "night", "taskReferenceName": "night", "type": "SIMPLE"}
    post("/metadata/taskdefs", [task])
    post("/metadata/workflow", {"name": "night", "version": 1, "schemaVersion": 2,
                                "ownerEmail": "a@b.invalid", "tasks": [step]})
    while not stop.is_set():
        post("/workflow/night", {})
        time.sleep(0.2)


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def kill_a_run(stack):
    """Kills the run that is at work, if one is."""
    runs = stack.runs()
    if runs and runs[-1]["ended_at"] is None:
        try:
            os.kill(runs[-1]["process"]["pid"], signal.SIGKILL)
            return True
        except ProcessLookupError:
            pass
    return False


def say(text):
    print(time.strftime("%H:%M:%S", time.gmtime()), text, flush=True)


def quick(stack, disk):
    """The faults, with runs fired one after the other."""
    phases = [("well", 3), ("away", 2), ("well", 2), ("full", 2), ("well", 2), ("killed", 2), ("well", 3)]
    for phase, count in phases:
        say(f"{phase}: {count} runs")
        if phase == "away":
            disk.go_away()
        if phase == "full":
            disk.fill_up()
        for _ in range(count):
            if phase == "killed":
                killed = 0
                while not killed:
                    fired = subprocess.Popen(
                        [stack.binary, "-q", "schedule", "fire"], cwd=stack.base, env=ENVIRONMENT,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    while fired.poll() is None and not killed:
                        killed = kill_a_run(stack)
                    fired.wait()
                continue
            code, _, said = stack.run("-q", "schedule", "fire")
            if (code == 0) != (phase == "well"):
                stack.wrong.append(f"a run while {phase} ends with {code}: {said}")
            stack.look(disk.is_away)
            # Archives are named by the second.
            time.sleep(1.1)
        if phase == "away":
            disk.come_back()
        if phase == "full":
            disk.empty()


def long(stacks, disk, minutes, memory, daemon):
    """The same by the clock."""
    faults = [(0.2, disk.go_away, "the repository goes away"), (0.35, disk.come_back, "it is back"),
              (0.5, disk.fill_up, "the disk fills up"), (0.65, disk.empty, "there is room again")]
    begun, killed = time.time(), 0
    while (gone := (time.time() - begun) / (minutes * 60)) < 1:
        if faults and gone >= faults[0][0]:
            _, change, text = faults.pop(0)
            say(text)
            change()
        if 0.72 < gone < 0.85 and killed < 3 and kill_a_run(stacks[0]):
            killed += 1
            say("a run is killed")
            time.sleep(50)
        for stack in stacks:
            stack.look(disk.is_away)
        memory.append(resident(daemon.pid))
        time.sleep(0.25 if 0.72 < gone < 0.85 else 2)
    return killed


def judge(stacks, webhook, memory, minutes):
    wrong = [text for stack in stacks for text in stack.wrong]
    for stack in stacks:
        runs = stack.runs()
        failed = [run for run in runs if run["error"]]
        died = [run for run in runs if run["ended_at"] is None]
        heard = collections.Counter(webhook.heard[stack.name])
        say(f"{stack.name}: {len(runs)} runs, {len(failed)} failed, {len(died)} killed; told: {dict(heard)}")
        if heard["failed"] != len(failed) + len(died):
            wrong.append(f"{stack.name}: {len(failed)} runs failed and {len(died)} were killed, and {heard['failed']} were told of")
        if not failed or heard["recovered"] < 2:
            wrong.append(f"{stack.name}: the faults and their ends were not told of")
        if minutes and len(runs) < minutes - 2:
            wrong.append(f"{stack.name}: {len(runs)} runs in {minutes} minutes")
        if list((stack.disk / "archives").glob("*.partial")):
            wrong.append(f"{stack.name}: a half-written archive is left")
        kept = sorted(stack.archives())
        if len(kept) < KEEP:
            wrong.append(f"{stack.name}: only {len(kept)} archives are left")
        for name in kept:
            code, _, said = stack.run("-q", "verify", name)
            if code:
                wrong.append(f"{stack.name}: {name} is not whole: {said}")
        code, _, said = stack.run("-q", "audit", "verify")
        if code:
            wrong.append(f"{stack.name}: {said}")
        say(f"{stack.name}: {len(stack.seen)} good archives were seen, {len(kept)} are kept and whole")
    if memory:
        third = len(memory) // 3
        grown = max(memory[-third:]) - max(memory[third:2 * third])
        say(f"the daemon has {memory[-1] >> 10} KiB, {grown >> 10} KiB more than in the middle")
        if grown > FLAT:
            wrong.append("the daemon's memory grows")
    return wrong


def play(folder, arguments):
    webhook, stop, memory = Webhook(), threading.Event(), []
    names = ["quick"] if arguments.quick else ["cron", "daemon"]
    stacks = [Stack(folder, name, arguments.binary, webhook, arguments.quick) for name in names]
    disk = Disk(stacks)
    if arguments.quick:
        threading.Thread(target=load, args=(stacks[0], stop), daemon=True).start()
        quick(stacks[0], disk)
        stop.set()
        return judge(stacks, webhook, memory, 0)
    processes = []
    try:
        by_cron, by_daemon = stacks
        for place in ["/var/spool/cron/crontabs", "/run", "/etc/cron.d"]:
            subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        subprocess.run(["mount", "--bind", "/dev/null", "/etc/crontab"], check=True)
        say("a real Conductor starts")
        code, _, said = by_cron.run("start")
        if code:
            return [f"the stack does not start: {said}"]
        threading.Thread(target=workflows, args=(by_cron, stop), daemon=True).start()
        threading.Thread(target=load, args=(by_daemon, stop), daemon=True).start()
        by_cron.run("schedule", "install", "--with", "cron")
        processes.append(subprocess.Popen(["cron", "-f"]))
        daemon = subprocess.Popen([arguments.binary, "-q", "schedule", "run"], cwd=by_daemon.base,
                                  env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        processes.append(daemon)
        long(stacks, disk, arguments.minutes, memory, daemon)
    finally:
        stop.set()
        for process in processes:
            process.terminate()
            process.wait()
        # A run that cron has started goes on without it.
        deadline = time.time() + 60
        while time.time() < deadline and any(
            run["ended_at"] is None and os.path.exists(f"/proc/{run['process']['pid']}")
            for run in stacks[0].runs()[-1:]
        ):
            time.sleep(0.2)
        stacks[0].run("stop")
    return judge(stacks, webhook, memory, arguments.minutes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.binary = os.path.abspath(arguments.binary)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="k1ops-night."))
    try:
        wrong = play(folder, arguments)
    finally:
        # The disks are unmounted with the namespace; what is beneath them goes here.
        for disk in folder.glob("*/*"):
            if disk.is_mount():
                subprocess.run(["umount", "--lazy", disk], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    for text in wrong:
        say(f"WRONG: {text}")
    say("the night was not good" if wrong else "a good night: every gap was told of, and no good archive was lost")
    return 1 if wrong else 0


ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("K1OPS_")}
ENVIRONMENT |= {"DOCKER_HOST": "unix:///nowhere/docker.sock", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

if __name__ == "__main__":
    sys.exit(main())
