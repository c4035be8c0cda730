"""Multiplies the rows that a real Conductor wrote, to a database of any size.

A *family* is a root workflow with its sub-workflows, tasks, index rows, queue messages and K1 rows.
Each copy of a family gets ids of its own, is moved in time, and gets texts of its own where the
seed has markers. What holds together in the seed holds together in each copy: the same id, time or
marker becomes the same value wherever it occurs. Rows that belong to no family (definitions,
migration history) are taken once. The same seed number gives the same rows in the same order.
"""

import collections
import datetime
import pathlib
import random
import re
import subprocess

from prose import Prose

# Workflow executions in the database of scale 1, which makes it a little larger than 500 MB.
EXECUTIONS = 6_200

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
VARIABLE = re.compile(
    rf"(?P<marker>@@\d+:[a-z]+:\d+:[^@]{{1,16}}@@)|(?P<id>{UUID})|(?P<millis>\b1[78]\d{{11}}\b)"
    r"|(?P<time>20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00|Z)?)|(?P<day>\b20\d{6}\b)")
MARKER = re.compile(r"@@(\d+):([a-z]+):(\d+):([^@]+)@@")

# Filled from sequences: a copy must not bring the seed's number.
NUMBERED = {("public.task_execution_logs", "log_id")}
SPAN_DAYS = 180


class Table:
    def __init__(self, name, columns):
        self.name, self.all_columns = name, columns
        self.keep = [i for i, column in enumerate(columns) if (name, column) not in NUMBERED]
        self.columns = [columns[i] for i in self.keep]
        self.lines = []

    def add(self, line):
        fields = line.split("\t")
        self.lines.append("\t".join(fields[i] for i in self.keep))

    def copy(self):
        return f"COPY {self.name} ({', '.join(self.columns)}) FROM STDIN"


def read_seed(server, seed_file):
    """The tables of the seed, in the order of the dump, with their rows as COPY writes them."""
    text = server.tool("pg_restore", "--section=data", "-f", "-", seed_file, stdout=subprocess.PIPE, text=True).stdout
    tables, table = [], None
    for line in text.split("\n"):
        if table is None and (head := re.match(r"COPY (\S+) \((.*)\) FROM stdin;$", line)):
            table = Table(head[1], head[2].split(", "))
        elif table is not None and line == "\\.":
            tables.append(table)
            table = None
        elif table is not None:
            table.add(line)
    return [t for t in tables if t.lines]


class Family:
    """Rows with holes, and what goes into the holes."""

    def __init__(self):
        self.rows = []  # (table index, pieces with holes, [(position, hole number)])
        self.holes, self.kinds = {}, []

    def add(self, table, line):
        pieces, at, holes = [], 0, []
        for found in VARIABLE.finditer(line):
            kind, text = found.lastgroup, found[0]
            if kind == "marker":
                marker = MARKER.fullmatch(text)
                key, what = ("marker", marker[1], marker[4]), (kind, marker[1], marker[2], int(marker[3]), marker[4])
            else:
                key, what = (kind, text), (kind, text)
            pieces.append(line[at:found.start()])
            holes.append((len(pieces), self._hole(key, what)))
            pieces.append("")
            at = found.end()
        pieces.append(line[at:] + "\n")
        self.rows.append((table, pieces, holes))

    def _hole(self, key, what):
        if key not in self.holes:
            self.holes[key] = len(self.kinds)
            self.kinds.append(what)
        return self.holes[key]

    def copy(self, rng, shift):
        """All rows of one copy, as (table index, line)."""
        prose, texts, values = Prose(rng), {}, []
        bits = rng.getrandbits
        for what in self.kinds:
            kind = what[0]
            if kind == "id":
                value = f"{bits(128):032x}"
                value = f"{value[:8]}-{value[8:12]}-4{value[13:16]}-a{value[17:20]}-{value[20:]}"
            elif kind == "marker":
                # In another place the same text has another escape for its newlines.
                if what[1] not in texts:
                    texts[what[1]] = prose.make(what[2], what[3], "\x01")
                value = texts[what[1]].replace("\x01", what[4])
            else:
                value = moved(kind, what[1], shift + bits(13) / 1000)
            values.append(value)
        for table, pieces, holes in self.rows:
            for position, hole in holes:
                pieces[position] = values[hole]
            yield table, "".join(pieces)


def moved(kind, text, seconds):
    if kind == "millis":
        return str(int(text) + int(seconds * 1000))
    if kind == "day":
        day = datetime.datetime.strptime(text, "%Y%m%d") + datetime.timedelta(seconds=int(seconds))
        return day.strftime("%Y%m%d")
    zone = "+00" if text.endswith("+00") else "Z" if text.endswith("Z") else ""
    time = datetime.datetime.fromisoformat(text.removesuffix(zone)) + datetime.timedelta(seconds=seconds)
    return time.isoformat(" " if text[10] == " " else "T", timespec="milliseconds") + zone


def families(tables):
    """Divides the rows: ids that stand in one row belong together, as do the rows of one id."""
    parent = {}

    def root(item):
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    ids_of = []
    for number, table in enumerate(tables):
        for line in table.lines:
            ids = re.findall(UUID, line)
            ids_of.append((number, line, ids))
            for other in ids[1:]:
                parent[root(other)] = root(ids[0])
    fixed, grouped = [], collections.defaultdict(Family)
    for number, line, ids in ids_of:
        if ids:
            grouped[root(ids[0])].add(number, line)
        else:
            fixed.append((number, line + "\n"))
    return fixed, list(grouped.values())


class Loader:
    """A COPY under way for each table; closed in order, each must have succeeded."""

    def __init__(self, server, database, tables):
        self.pipes = [
            subprocess.Popen([server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", t.copy()],
                             env=server.environment, stdin=subprocess.PIPE)
            for t in tables]
        self.waiting = [[] for _ in tables]
        self.sizes = [0] * len(tables)

    def add(self, table, line):
        waiting = self.waiting[table]
        waiting.append(line)
        self.sizes[table] += len(line)
        if self.sizes[table] > 1 << 18:
            self.flush(table)

    def flush(self, table):
        self.pipes[table].stdin.write("".join(self.waiting[table]).encode())
        self.waiting[table].clear()
        self.sizes[table] = 0

    def close(self):
        for table, pipe in enumerate(self.pipes):
            self.flush(table)
            pipe.stdin.close()
            if pipe.wait() != 0:
                raise SystemExit("the generated rows were not taken")


def fill(server, database, seed_file, executions, seed):
    """Creates `database` with the seed's schema and so many workflow executions."""
    server.create(database)
    server.tool("pg_restore", "--exit-on-error", "--section=pre-data", "-d", database, seed_file)
    tables = read_seed(server, seed_file)
    fixed, groups = families(tables)
    workflows = [sum(tables[table].name == "public.workflow" for table, _, _ in g.rows) for g in groups]
    loader = Loader(server, database, tables)
    for table, line in fixed:
        loader.add(table, line)
    made = number = 0
    while made < executions:
        rng = random.Random(f"{seed}:{number}")
        chosen = number % len(groups)
        shift = -SPAN_DAYS * 86400 * (1 - made / executions)
        for table, line in groups[chosen].copy(rng, shift):
            loader.add(table, line)
        made += max(1, workflows[chosen])
        number += 1
    loader.close()
    server.tool("pg_restore", "--exit-on-error", "-j", 2, "--section=post-data", "-d", database, seed_file)
    # A database in use has been vacuumed: no reader pays for hint bits.
    server.run(database, "VACUUM (ANALYZE)")
    server.settle()
    return int(server.value(database, f"SELECT pg_database_size('{database}')"))


def seed_path(cache):
    return pathlib.Path(cache) / "seed-3.32.1.dump"
