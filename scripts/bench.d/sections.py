"""The parts of a run. Each answers plain data for the report; none prints."""

import json
import subprocess
import time

import contenders
import measure
from contenders import q

# The database that everything but the scaling is measured with.
MAIN = "bench_1x"

# What a user would lose if a restored database were not the same.
COUNTED = ["workflow", "task", "workflow_index", "task_index", "queue_message", "k1_agent_executions", "k1_quality_gates"]


def backups(bench, database, rounds, say):
    """All backups in turn, round after round, so that a disturbance meets all of them alike."""
    names = contenders.BACKUPS
    runs = {c.name: [] for c in names}
    bench.run(f"pg_dump {database} > /dev/null")  # the first reader would pay for a cold cache
    for number in range(rounds):
        for contender in names[number % len(names):] + names[:number % len(names)]:
            bench.server.settle()
            done = contender.run(bench, database)
            runs[contender.name].append(done)
            say(f"round {number + 1}: {contender.name}: {done.wall:.2f} s, {done.cpu:.2f} s CPU, {done.bytes / 1e6:.1f} MB")
    return {name: measure.summary(done) for name, done in runs.items()}


def restores(bench, source, rounds, say):
    names = contenders.RESTORES
    runs = {c.name: [] for c in names}
    expected = counts(bench.server, source)
    for number in range(rounds):
        for contender in names[number % len(names):] + names[:number % len(names)]:
            target = "bench_restored"
            drop_all(bench.server, target)
            bench.server.settle()
            done = contender.run(bench, target)
            runs[contender.name].append(done)
            say(f"round {number + 1}: {contender.name}: {done.wall:.2f} s, {done.cpu:.2f} s CPU")
            if counts(bench.server, target) != expected:
                raise SystemExit(f"{contender.name} restored something else than was backed up")
            drop_all(bench.server, target)
    return {name: measure.summary(done) for name, done in runs.items()}


def counts(server, database):
    sql = " UNION ALL ".join(f"SELECT '{t}', count(*) FROM {t}" for t in COUNTED) + " ORDER BY 1"
    return server.value(database, sql)


def drop_all(server, prefix):
    """k1ops keeps what a restore replaces beside the live database."""
    for name in server.value("postgres", f"SELECT datname FROM pg_database WHERE datname LIKE '{prefix}%'").split():
        server.drop(name)


def scaling(bench, databases, rounds, say):
    """k1ops backup over databases of several sizes, interleaved as well."""
    runs = {scale: [] for scale in databases}
    for number in range(rounds):
        for scale, database in databases.items():
            bench.server.settle()
            done = contenders.K1OPS.run(bench, database)
            bench.remove(contenders.K1OPS.file)
            runs[scale].append(done)
            say(f"round {number + 1}: {scale}x: {done.wall:.2f} s, {done.cpu:.2f} s CPU, {done.peak_kib / 1024:.0f} MiB")
    return {str(scale): measure.summary(done) for scale, done in runs.items()}


def floor(bench, database, rounds, say):
    """What no backup by COPY can go below: the server's own work, and compression alone."""
    tables = bench.server.value(database, "SELECT string_agg(format('%I.%I', schemaname, relname), ' ' "
                                "ORDER BY pg_table_size(relid) DESC) FROM pg_stat_user_tables").split()
    loads = [[], []]
    weight = [0, 0]
    for table in tables:
        lighter = weight.index(min(weight))
        weight[lighter] += int(bench.server.value(database, f"SELECT pg_table_size('{table}')"))
        loads[lighter].append(table)

    def copy(names):
        statements = " ".join(f"-c \"COPY {name} TO '/dev/null'\"" for name in names)
        return f"psql -X -q -d {database} {statements}"

    dump = bench.out("guide.sql")
    commands = {
        "server-side COPY to /dev/null, 1 connection": copy(tables),
        "server-side COPY to /dev/null, 2 connections": f"{copy(loads[0])} & first=$!; {copy(loads[1])}; wait $first",
        "zstd -3 of the dump to /dev/null, 1 thread": f"zstd -q -3 --single-thread -c {q(dump)} > /dev/null",
        "zstd -3 of the dump to /dev/null, 2 threads": f"zstd -q -3 -T2 -c {q(dump)} > /dev/null",
        "writing and syncing the archive's bytes": f"dd if={q(bench.out('k1ops.tar'))} of={q(bench.out('written'))} bs=1M "
                                                   "conv=fsync status=none",
    }
    runs = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(bench.run(command))
    for name, done in runs.items():
        say(f"{name}: {measure.spread([r.wall for r in done])['median']:.2f} s")
    return {name: measure.summary(done) for name, done in runs.items()}


def effect(bench, database, rounds, seconds, say):
    """pgbench beside each backup, which is repeated as long as pgbench runs; and beside nothing."""
    load = "bench_load"
    bench.server.create(load)
    bench.run(f"pgbench -i -q -s 20 {load}")
    beside = {"nothing": None, **{c.name: c for c in (contenders.K1OPS, contenders.PG_DUMP_FC, contenders.PG_DUMP_ZSTD)}}
    tps = {name: [] for name in beside}
    lasted = {name: [] for name in beside}
    for _ in range(rounds):
        for name, contender in beside.items():
            bench.server.settle()
            pgbench = subprocess.Popen([bench.server.bin / "pgbench", "-c", "4", "-j", "1", "-T", str(seconds), "-P", "1", load],
                                       env=bench.server.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            begun = time.monotonic()
            # A backup that is under way when pgbench ends has had an end without pgbench: only the
            # seconds in which both ran are counted.
            while contender and time.monotonic() - begun < seconds:
                done = contender.run(bench, database)
                if time.monotonic() - begun < seconds:
                    lasted[name].append(done.wall)
            _, progress = pgbench.communicate()
            tps[name] += [float(line.split()[3]) for line in progress.splitlines() if line.startswith("progress:")][1:]
            say(f"beside {name}: {measure.spread(tps[name])['median']:.0f} transactions a second")
    bench.server.drop(load)
    out = {}
    free = measure.spread(tps["nothing"])["median"]
    for name in beside:
        out[name] = {"tps": measure.spread(tps[name])}
        if lasted[name]:
            took = measure.spread(lasted[name])["median"]
            out[name]["backup_wall_s"] = took
            out[name]["transactions_lost_per_backup"] = round((free - out[name]["tps"]["median"]) * took)
    return out


def start_up(bench, say):
    """How long k1ops takes to say anything at all."""
    file = bench.scratch / "hyperfine.json"
    subprocess.run(["hyperfine", "-N", "--warmup", "5", "--runs", "60", "--export-json", str(file), f"{bench.k1ops} --version",
                    f"{bench.k1ops} completions bash"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    out = {}
    for name, result in zip(["k1ops --version", "k1ops completions bash"], json.loads(file.read_text())["results"], strict=True):
        out[name] = {"median_ms": round(result["median"] * 1000, 2), "min_ms": round(result["min"] * 1000, 2),
                     "max_ms": round(result["max"] * 1000, 2)}
        say(f"{name}: {out[name]['median_ms']} ms")
    return out


def physical(bench, others, rounds, say):
    """The whole server, which holds one database by now: `others` are dropped, and the write-ahead log of filling
    them is recycled by two checkpoints."""
    for name in others:
        bench.server.drop(name)
    bench.server.settle()
    bench.server.run("postgres", "SELECT pg_switch_wal()")
    bench.server.settle()
    runs = {c.name: [] for c in contenders.PHYSICAL}
    for number in range(rounds):
        for contender in contenders.PHYSICAL[number % 4:] + contenders.PHYSICAL[:number % 4]:
            bench.server.settle()
            done = contender.run(bench, MAIN)
            runs[contender.name].append(done)
            say(f"round {number + 1}: {contender.name}: {done.wall:.2f} s, {done.cpu:.2f} s CPU, {done.bytes / 1e6:.1f} MB")
    unpacked(bench, say)
    return {name: measure.summary(done) for name, done in runs.items()}


def unpacked(bench, say):
    """What k1ops wrote has to be a data directory that PostgreSQL's own judge accepts."""
    bench.remove("pgdata")
    folder = bench.out("pgdata")
    done = bench.run(f"{q(bench.k1ops)} -q restore {q(bench.out('physical.tar'))} --into {q(folder)}", cwd=bench.stack(MAIN))
    bench.run(f"pg_verifybackup -q {q(folder)}")
    bench.remove("pgdata")
    say(f"k1ops restore --into: {done.wall:.2f} s, {done.cpu:.2f} s CPU; pg_verifybackup accepts it")
