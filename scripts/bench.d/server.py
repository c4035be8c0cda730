"""The benchmark's own PostgreSQL: its tools, its processes' CPU time, its sessions."""

import os
import pathlib
import subprocess
import urllib.parse

TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    def __init__(self, url, data, bin_dir):
        parts = urllib.parse.urlsplit(url)
        self.port, self.user = parts.port, parts.username
        self.password = urllib.parse.unquote(parts.password or "")
        self.data, self.bin = pathlib.Path(data), pathlib.Path(bin_dir)
        self.environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": self.user,
                            "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "20",
                            "PGOPTIONS": "-c client_min_messages=warning"}
        self.environment["PATH"] = f"{self.bin}:{self.environment['PATH']}"

    def url(self, database):
        return f"postgres://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def tool(self, name, *arguments, **options):
        return subprocess.run([self.bin / name, *map(str, arguments)], env=self.environment, check=True,
                              stdin=subprocess.DEVNULL, **options)

    def run(self, database, sql=None, file=None):
        source = ["-f", str(file)] if file else ["-c", sql]
        self.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, *source,
                  stdout=subprocess.DEVNULL)

    def value(self, database, sql):
        done = self.tool("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql,
                         stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def create(self, database):
        self.drop(database)
        self.run("postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')

    def drop(self, database):
        self.run("postgres", f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def settle(self):
        """Writes what earlier work left dirty, so that it does not fall into the next measurement."""
        self.run("postgres", "CHECKPOINT")

    @property
    def socket(self):
        return self.data.parent / "socket"

    def drop_slot(self, name):
        self.run("postgres", f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'")

    def cpu_seconds(self):
        """User and system time of the postmaster, of all that it has reaped, and of all that live."""
        postmaster = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        total = _ticks(postmaster)
        children = pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return (total + sum(_ticks(int(child)) for child in children)) / TICKS


def _ticks(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(field) for field in fields[11:15])
