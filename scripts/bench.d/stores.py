"""Backups straight into an object store, beside the same to the local disk and beside restic and rustic into
the same server: the Versity S3 gateway, on this machine.

Each round begins with an empty store: restic and rustic would find again what they had stored before.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import time

import measure
from contenders import q

KEY, SECRET, BUCKET = "bench", "bench-secret", "bench"


class Gateway:
    """One S3 server over a folder, whose folders are its buckets."""

    def __init__(self, folder):
        self.folder = folder
        (folder / BUCKET).mkdir(parents=True)
        self.port = measure.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = subprocess.Popen(["versitygw", "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", folder],
                                       env={**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.end()
                    raise
                time.sleep(0.05)

    def empty(self):
        # The server holds on to its folder and its bucket, so these stay.
        for entry in (self.folder / BUCKET).iterdir():
            shutil.rmtree(entry)

    def stored(self):
        return measure.size_of(self.folder / BUCKET)

    def end(self):
        self.server.terminate()
        self.server.wait()


def stores(bench, database, rounds, say):
    gateway = Gateway(bench.scratch / "store")
    peers = [name for name in ("restic", "rustic") if shutil.which(name)]
    contenders = {"k1ops backup, local disk": local, "k1ops backup, S3": to_s3}
    contenders |= {f"pg_dump | {peer}, S3": globals()[peer] for peer in peers}
    runs = {name: [] for name in contenders}
    try:
        for number in range(rounds):
            for name, work in list(contenders.items())[:: 1 if number % 2 == 0 else -1]:
                gateway.empty()
                bench.server.settle()
                done = work(bench, database, gateway)
                runs[name].append(done)
                say(f"round {number + 1}: {name}: {done.wall:.2f} s, {done.cpu:.2f} s CPU, {done.bytes / 1e6:.1f} MB")
    finally:
        gateway.end()
    return {name: measure.summary(done) | {"walls": [round(run.wall, 4) for run in done]} for name, done in runs.items()}


def local(bench, database, _):
    bench.remove("k1ops.tar")
    done = bench.run(f"{q(bench.k1ops)} -q backup --output {q(bench.out('k1ops.tar'))}", cwd=bench.stack(database))
    done.bytes = measure.size_of(bench.out("k1ops.tar"))
    return done


def to_s3(bench, database, gateway):
    folder = bench.scratch / "stacks" / "store"
    folder.mkdir(parents=True, exist_ok=True)
    credentials, config = folder / "store.env", folder / "k1ops.toml"
    for file, text in [(credentials, f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\n"),
                       (config, f'[database]\nurl = "{bench.server.url(database)}"\n[repository]\nurl = "s3://{BUCKET}/k1"\n'
                                f'endpoint = "{gateway.url}"\nregion = "us-east-1"\ncredentials = "store.env"\n')]:
        file.touch(0o600)
        file.write_text(text)
    return counted(gateway, bench.run(f"{q(bench.k1ops)} -q backup", cwd=folder))


def restic(bench, database, gateway):
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "RESTIC_PASSWORD": SECRET,
                   "RESTIC_REPOSITORY": f"s3:{gateway.url}/{BUCKET}/restic", "RESTIC_CACHE_DIR": str(bench.out("restic-cache"))}
    # The second version of its repositories compresses, with zstd.
    bench.run("restic init --repository-version 2", environment=environment)
    return counted(gateway, bench.run(f"pg_dump {database} | restic backup --stdin", environment=environment))


def rustic(bench, database, gateway):
    profile = bench.out("rustic.toml")
    profile.touch(0o600)
    profile.write_text(f"""[repository]
repository = "opendal:s3"
password = "{SECRET}"
no-cache = true
[repository.options]
bucket = "{BUCKET}"
root = "/rustic"
endpoint = "{gateway.url}"
region = "us-east-1"
access_key_id = "{KEY}"
secret_access_key = "{SECRET}"
""")
    command = f"rustic -P {q(pathlib.Path(profile).with_suffix(''))}"
    bench.run(f"{command} init")
    return counted(gateway, bench.run(f"pg_dump {database} | {command} backup -"))


def counted(gateway, done):
    done.bytes = gateway.stored()
    return done
