"""One run of the benchmark against a server that scripts/bench has started."""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

import conductor_seed
import contenders
import generate
import measure
import report
import sections
import stack
import stores
import workers
from server import Server


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures k1ops beside its peers, in one run.")
    parser.add_argument("--scale", type=float, default=1, help="size of the main database; 1 is a little over 500 MB")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of backups (restores: half of that)")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers to this file")
    parser.add_argument("--seed", type=int, default=1, help="another number makes another database")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 50 MB, two rounds, sizes 1x and 2x of that")
    parser.add_argument("--only", default="", help="sections, such as backups,restores,scaling,effect,floor,start_up,physical,stores,stack,workers")
    return parser.parse_args()


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def seeded(server, cache):
    """The seed file; made by a run of the real Conductor where the cache has none."""
    file = generate.seed_path(cache)
    if not file.exists():
        say("running the real Conductor once, for its schema and its rows (cached afterwards)")
        file.parent.mkdir(parents=True, exist_ok=True)
        server.create("bench_seed")
        root = pathlib.Path(__file__).resolve().parents[2]
        conductor_seed.make(server, "bench_seed", str(file), os.environ["BENCH_JAVA"], os.environ["BENCH_JAR"],
                            int(os.environ["BENCH_PORT"]), root / "src/store/migrations/postgres", say)
        server.drop("bench_seed")
    return file


def main():
    args = arguments()
    scratch = pathlib.Path(os.environ["BENCH_SCRATCH"])
    server = Server(os.environ["BENCH_URL"], os.environ["BENCH_DATA"], os.environ["BENCH_BIN"])
    bench = contenders.Bench(server, os.environ["BENCH_K1OPS"], scratch, scratch / "commands.log")
    (scratch / "out").mkdir()
    scale, rounds = (0.1, min(args.rounds, 2)) if args.quick else (args.scale, args.rounds)
    wanted = set(filter(None, args.only.split(",")))

    def on(name):
        return not wanted or name in wanted

    seed_file = seeded(server, os.environ["BENCH_CACHE"])
    steps = ([1, 2] if args.quick else [1, 2, 4]) if on("scaling") else [1]
    if wanted == {"workers"}:
        steps = []
    databases, sizes = {}, {}
    for step in steps:
        begun, name = time.monotonic(), f"bench_{step}x"
        size = generate.fill(server, name, seed_file, int(generate.EXECUTIONS * scale * step), args.seed)
        databases[step], sizes[str(step)] = name, {"bytes": size, "scale": scale * step}
        say(f"{name}: {size / 1e6:.0f} MB, made in {time.monotonic() - begun:.0f} s")
    main_database = databases.get(1)
    calibrations, loads = [measure.calibration()], [os.getloadavg()[0]]
    result = {"database": sizes, "rounds": rounds, "seed": args.seed, "missing": os.environ.get("BENCH_MISSING", "").split()}

    def section(name, work):
        if on(name):
            say(f"-- {name}")
            result[name] = work()
            calibrations.append(measure.calibration())
            loads.append(os.getloadavg()[0])

    section("backups", lambda: sections.backups(bench, main_database, rounds, say))
    section("restores", lambda: sections.restores(bench, main_database, max(1, rounds // 2), say))
    section("floor", lambda: sections.floor(bench, main_database, max(1, rounds // 2), say))
    section("scaling", lambda: sections.scaling(bench, databases, max(1, rounds // 2), say))
    section("effect", lambda: sections.effect(bench, main_database, max(1, rounds // 2), 6 if args.quick else 20, say))
    section("start_up", lambda: sections.start_up(bench, say))
    section("physical", lambda: sections.physical(bench, list(databases.values())[1:], max(1, rounds // 2), say))
    if shutil.which("versitygw"):
        section("stores", lambda: stores.stores(bench, main_database, rounds, say))
    if os.environ.get("K1OPS_TESTBED_POSTGRES_IMAGE"):
        section("stack", lambda: stack.stack(bench, main_database, max(2, rounds // 2), say))
    section("workers", lambda: workers.workers(bench, 100 if args.quick else 1000, 1 if args.quick else max(1, rounds // 2), 4, say))
    result["machine"] = {"cpus": os.cpu_count(), "load": [round(x, 1) for x in loads],
                         "calibration_s": measure.spread(calibrations)}
    result["targets"] = report.targets(result)
    print(report.text(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(scratch / "out")


if __name__ == "__main__":
    try:
        main()
    except measure.CommandFailed as error:
        log = pathlib.Path(os.environ["BENCH_SCRATCH"]) / "commands.log"
        sys.exit(f"bench: {error}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
