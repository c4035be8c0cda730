"""A whole stack of tier 1: the original guide's two commands, as it wrote them, beside `k1ops backup`,
which takes the database as rows and every volume.

Runs on a real Docker engine with the images that scripts/testbed builds.
"""

import os
import subprocess
import time

import measure

PREFIX = f"k1bench{os.getpid()}"


class Stack:
    """PostgreSQL and Redis of a tier 1 stack, filled with what `source` holds."""

    def __init__(self, bench):
        self.bench, self.folder = bench, bench.scratch / "stacks" / "docker"
        self.folder.mkdir(parents=True)
        ports = [measure.free_port() for _ in range(3)]
        (self.folder / "k1ops.toml").write_text(
            f"tier = 'docker'\n[docker]\nprefix = '{PREFIX}'\n"
            f"postgres_image = '{os.environ['K1OPS_TESTBED_POSTGRES_IMAGE']}'\n"
            f"redis_image = '{os.environ['K1OPS_TESTBED_REDIS_IMAGE']}'\n"
            f"java_image = '{os.environ['K1OPS_TESTBED_JAVA_IMAGE']}'\n"
            f"[ports]\nconductor = {ports[0]}\npostgres = {ports[1]}\nredis = {ports[2]}\n")

    def start(self, source):
        self.k1ops("start", "--wait=false")
        # Conductor would go on writing: both sides are to read the same.
        _docker("stop", "-t", "1", f"{PREFIX}-server")
        self.fill(source)

    def k1ops(self, *arguments):
        subprocess.run([self.bench.k1ops, "-q", *arguments], cwd=self.folder, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, env=_without_test_settings())

    def psql(self, sql):
        _docker("exec", "-u", "postgres", f"{PREFIX}-postgres", "psql", "-X", "-q", "-U", "conductor", "-d", "postgres", "-c", sql)

    def fill(self, source):
        self.psql("DROP DATABASE conductor WITH (FORCE)")
        self.psql("CREATE DATABASE conductor TEMPLATE template0")
        dump = subprocess.Popen([self.bench.server.bin / "pg_dump", "-O", "-x", source], stdout=subprocess.PIPE,
                                env=self.bench.server.environment)
        subprocess.run(["docker", "exec", "-i", "-u", "postgres", f"{PREFIX}-postgres", "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1",
                        "-U", "conductor", "-d", "conductor"], stdin=dump.stdout, check=True, stdout=subprocess.DEVNULL)
        if dump.wait() != 0:
            raise SystemExit("the stack could not be filled")
        # Neither side is to meet the first vacuum that a filled database gets.
        _docker("exec", "-u", "postgres", f"{PREFIX}-postgres", "vacuumdb", "-q", "-z", "-U", "conductor", "conductor")
        self.psql("CHECKPOINT")

    def guide(self):
        out = self.bench.scratch / "out"
        sql, volume = out / "stack.sql", out / "stack.tar.gz"
        image = os.environ["K1OPS_TESTBED_POSTGRES_IMAGE"]
        commands = [f"docker exec -u postgres {PREFIX}-postgres pg_dump -U conductor conductor > {sql}",
                    f"docker run --rm --entrypoint tar -v {PREFIX}_postgres_data:/data -v {out}:/backup {image} "
                    "czf /backup/stack.tar.gz -C /data ."]
        wall = 0.0
        for command in commands:
            begun = time.monotonic()
            # 1: a file changed while tar read it, which is this recipe's nature.
            code = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            wall += time.monotonic() - begun
            if code not in (0, 1):
                raise SystemExit(f"exit code {code}: {command}")
        size = measure.size_of(sql) + measure.size_of(volume)
        sql.unlink()
        volume.unlink()
        return wall, size

    def backup(self):
        file = self.bench.scratch / "out" / "stack.tar"
        begun = time.monotonic()
        self.k1ops("backup", "--output", str(file))
        wall, size = time.monotonic() - begun, measure.size_of(file)
        file.unlink()
        return wall, size

    def remove(self):
        for kind, names in [("container", ["server", "redis", "postgres"]), ("volume", ["postgres_data", "redis_data", "logs"])]:
            mark = "-" if kind == "container" else "_"
            force = ["-f"]
            subprocess.run(["docker", kind, "rm", *force, *[f"{PREFIX}{mark}{n}" for n in names]], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        images = subprocess.run(["docker", "images", "-q", f"{PREFIX}-server"], capture_output=True, text=True, check=True)
        for image in images.stdout.split():
            subprocess.run(["docker", "rmi", image], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(["docker", "network", "rm", f"{PREFIX}-network"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stack(bench, database, rounds, say):
    """Both in turn, round after round."""
    made = Stack(bench)
    runs = {"guide: docker exec pg_dump + docker run tar czf": [], "k1ops backup, all volumes": []}
    try:
        made.start(database)
        for number in range(rounds):
            for name, run in zip(runs, (made.guide, made.backup), strict=True):
                wall, size = run()
                runs[name].append((wall, size))
                say(f"round {number + 1}: {name}: {wall:.2f} s, {size / 1e6:.1f} MB")
    finally:
        made.remove()
    return {name: {"wall_s": measure.spread([w for w, _ in done]), "bytes": max(s for _, s in done)} for name, done in runs.items()}


def _docker(*arguments):
    subprocess.run(["docker", *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _without_test_settings():
    return {name: value for name, value in os.environ.items() if not name.startswith("K1OPS_")}
