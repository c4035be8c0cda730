"""What is compared: each contender is a few commands and the files they make.

The original guide runs its two commands through `docker exec` and `docker run`; here they run
without Docker, which flatters them.
"""

import dataclasses
import getpass
import os
import pathlib
import shlex
import shutil
import subprocess
import time

import measure


@dataclasses.dataclass
class Bench:
    """What the contenders share."""
    server: object
    k1ops: str
    scratch: pathlib.Path
    log: pathlib.Path

    def out(self, name):
        return self.scratch / "out" / name

    def run(self, command, **options):
        return measure.run(self.server, command, log=self.log, **options)

    def remove(self, name):
        path = self.out(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)

    def stack(self, database):
        """A folder whose k1ops.toml names the database. The password stays out of command lines."""
        folder = self.scratch / "stacks" / database
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "k1ops.toml"
        config.touch(0o600)
        config.write_text(f'[database]\nurl = "{self.server.url(database)}"\n')
        return folder


def q(path):
    return shlex.quote(str(path))


class Backup:
    """One command that reads a database and writes one file or folder."""

    def __init__(self, name, file, command, cwd=None):
        self.name, self.file, self.command, self.cwd = name, file, command, cwd

    def run(self, bench, database):
        bench.remove(self.file)
        done = bench.run(self.command.format(db=database, out=q(bench.out(self.file)), k1ops=q(bench.k1ops)),
                         cwd=bench.stack(database))
        done.bytes = measure.size_of(bench.out(self.file))
        return done


class Guide:
    """1. pg_dump into a plain file; 2. tar czf of the data directory."""
    name = "guide: pg_dump + tar czf"

    def run(self, bench, database):
        bench.remove("guide.sql")
        bench.remove("guide.tar.gz")
        sql, volume = bench.out("guide.sql"), bench.out("guide.tar.gz")
        dump = bench.run(f"pg_dump {database} > {q(sql)}")
        # The volume of a stack holds its own database and a quiet server's WAL. Databases of other
        # scales and the WAL that filling them left behind are kept out of it.
        excluded = " ".join(f"--exclude={e}" for e in self.not_its_own(bench, database))
        # 1: a file changed while it was read. That is this recipe's nature, not a failure here.
        tar = bench.run(f"tar czf {q(volume)} {excluded} -C {q(bench.server.data)} .", accept=(0, 1))
        dump.bytes, tar.bytes = measure.size_of(sql), measure.size_of(volume)
        return measure.added([dump, tar])

    @staticmethod
    def not_its_own(bench, database):
        others = bench.server.value("postgres", f"SELECT string_agg(oid::text, ' ') FROM pg_database WHERE NOT datistemplate "
                                    f"AND datname NOT IN ('postgres', '{database}')").split()
        wal = sorted(p.name for p in (bench.server.data / "pg_wal").iterdir() if len(p.name) == 24)
        return [f"./base/{oid}" for oid in others] + [f"./pg_wal/{name}" for name in wal[5:]]


K1OPS = Backup("k1ops backup", "k1ops.tar", "{k1ops} -q backup --output {out}")
PG_DUMP_ZSTD = Backup("pg_dump | zstd", "dump.sql.zst", "pg_dump {db} | zstd -q -f -3 -o {out}")
PG_DUMP_FC = Backup("pg_dump -Fc", "dump.fc", "pg_dump -Fc -f {out} {db}")
PG_DUMP_FD = Backup("pg_dump -Fd -j2", "dump.fd", "pg_dump -Fd -j2 -f {out} {db}")

BACKUPS = [K1OPS, Guide(), PG_DUMP_FC, PG_DUMP_FD, PG_DUMP_ZSTD,
           Backup("pg_dump | zstd -T0", "dump.mt.zst", "pg_dump {db} | zstd -q -f -3 -T0 -o {out}")]


class PgBackRest:
    """A full backup into a repository of its own, on both cores. It is not asked for the write-ahead log, which
    flatters it: archiving would have to be set up in the server."""
    name = "pgBackRest, zstd"

    def run(self, bench, database):
        del database
        bench.remove("pgbackrest")
        place = bench.out("pgbackrest")
        for folder in ["repo", "log", "lock", "spool"]:
            (place / folder).mkdir(parents=True)
        config = place / "pgbackrest.conf"
        config.write_text(f"""[global]
repo1-path={place}/repo
log-path={place}/log
lock-path={place}/lock
spool-path={place}/spool
compress-type=zst
compress-level=3
process-max={os.cpu_count()}
start-fast=y
archive-check=n
archive-mode-check=n
repo1-retention-full=1
log-level-console=warn
[bench]
pg1-path={bench.server.data}
pg1-port={bench.server.port}
pg1-socket-path={bench.server.socket}
pg1-user={bench.server.user}
""")
        command = f"pgbackrest --config={q(config)} --stanza=bench"
        bench.run(f"{command} stanza-create")
        done = bench.run(f"{command} --type=full backup")
        done.bytes = measure.size_of(place / "repo")
        return done


class Barman:
    """`barman backup` by pg_basebackup with zstd. Its receiver of the write-ahead log is started before, as it has to
    be, and is not counted."""
    name = "barman, zstd"

    def run(self, bench, database):
        del database
        bench.remove("barman")
        place = bench.out("barman")
        place.mkdir()
        config = place / "barman.conf"
        at = f"host=127.0.0.1 port={bench.server.port} user={bench.server.user}"
        config.write_text(f"""[barman]
barman_home = {place}
barman_user = {getpass.getuser()}
log_file = {place}/barman.log
[bench]
description = bench
conninfo = {at} dbname=postgres
streaming_conninfo = {at}
backup_method = postgres
streaming_archiver = on
slot_name = bench_barman
backup_compression = zstd
backup_compression_level = 3
path_prefix = {bench.server.bin}
""")
        command = f"barman -c {q(config)}"
        bench.run(f"{command} receive-wal --create-slot bench")
        receiver = subprocess.Popen(shlex.split(f"{command} receive-wal bench"), env=bench.server.environment,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait_until_ready(bench, command)
            done = bench.run(f"{command} backup bench")
        finally:
            bench.run(f"{command} receive-wal --stop bench", accept=range(256))
            receiver.terminate()
            receiver.wait()
            bench.server.drop_slot("bench_barman")
        done.bytes = measure.size_of(place / "bench/base")
        return done

    @staticmethod
    def wait_until_ready(bench, command):
        """A first segment has to have arrived and to be filed."""
        for _ in range(30):
            bench.server.run("postgres", "SELECT pg_switch_wal()")
            bench.run(f"{command} archive-wal bench", accept=range(256))
            if bench.run(f"{command} check bench", accept=range(256)).status == 0:
                return
            time.sleep(0.5)
        raise measure.CommandFailed(f"{command} check bench")


PHYSICAL = [
    Backup("k1ops backup --physical", "physical.tar", "{k1ops} -q backup --physical --output {out}"),
    Backup("pg_basebackup | zstd", "base.tar.zst",
           "pg_basebackup -D - -Ft -X fetch --checkpoint=fast | zstd -q -f -3 -T0 -o {out}"),
    PgBackRest(),
    Barman(),
]


class Restore:
    """Makes the database `target` from what a backup wrote."""

    def __init__(self, name, command):
        self.name, self.command = name, command

    def run(self, bench, target):
        return bench.run(self.command.format(db=target, dir=q(bench.out(".")), k1ops=q(bench.k1ops)), cwd=bench.stack(target))


K1OPS_RESTORE = Restore("k1ops restore", "{k1ops} -q restore {dir}/k1ops.tar --yes --no-safety")
RESTORES = [
    K1OPS_RESTORE,
    Restore("psql < dump", "createdb -T template0 {db} && psql -X -q -v ON_ERROR_STOP=1 -d {db} < {dir}/guide.sql"),
    Restore("pg_restore -j2 (-Fc)", "createdb -T template0 {db} && pg_restore -e -j2 -d {db} {dir}/dump.fc"),
    Restore("pg_restore -j2 (-Fd)", "createdb -T template0 {db} && pg_restore -e -j2 -d {db} {dir}/dump.fd"),
]
