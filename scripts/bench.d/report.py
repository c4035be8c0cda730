"""Ratios, targets and tables from what was measured."""

import statistics


def targets(result):
    """One entry for each line of what the benchmark must show; `met` is None where it was not run."""
    out = []

    def add(name, ratio, limit, note=""):
        met = None if ratio is None else ratio <= limit
        out.append({"target": name, "measured": None if ratio is None else round(ratio, 3), "at_most": limit, "met": met, "note": note})

    def wall(section, name):
        return result[section][name]["wall_s"]["median"]

    def cpu(section, name):
        return result[section][name]["cpu_s"]["median"]

    def ratio(section, ours, theirs):
        return wall(section, ours) / wall(section, theirs), f"by CPU seconds {cpu(section, ours) / cpu(section, theirs):.2f}"

    ours, guide = "k1ops backup", "guide: pg_dump + tar czf"
    if backups := result.get("backups"):
        value, note = ratio("backups", ours, guide)
        add("backup: time against the guide's two commands", value, round(1 / 6, 4), note)
        add("backup: size against the guide's", backups[ours]["bytes"] / backups[guide]["bytes"], 0.5)
        for peer in ["pg_dump -Fc", "pg_dump -Fd -j2", "pg_dump | zstd", "pg_dump | zstd -T0"]:
            value, note = ratio("backups", ours, peer)
            add(f"backup: time against {peer}", value, 1.0, note)
        add("backup: size against pg_dump | zstd", backups[ours]["bytes"] / backups["pg_dump | zstd"]["bytes"], 1.0)
    if result.get("restores"):
        value, note = ratio("restores", "k1ops restore", "psql < dump")
        add("restore: time against psql", value, 0.5, note)
        for peer in ["pg_restore -j2 (-Fc)", "pg_restore -j2 (-Fd)"]:
            value, note = ratio("restores", "k1ops restore", peer)
            add(f"restore: time against {peer}", value, 1.0, note)
        add("restore: peak memory in MiB", result["restores"]["k1ops restore"]["peak_mib"], 256)
    if scaling := result.get("scaling"):
        scales = sorted(scaling, key=int)
        add("backup: peak memory in MiB at any size", max(s["peak_mib"] for s in scaling.values()), 256)
        if len(scales) > 1:
            add(f"backup: peak memory, {scales[-1]}x against {scales[0]}x",
                scaling[scales[-1]]["peak_mib"] / scaling[scales[0]]["peak_mib"], 1.15)
        first = scales[0]
        for scale in scales[1:]:
            grown = result["database"][scale]["bytes"] / result["database"][first]["bytes"]
            for kind, label in [("wall_s", "time"), ("cpu_s", "CPU time")]:
                value = scaling[scale][kind]["median"] / scaling[first][kind]["median"] / grown
                add(f"backup: {label} of {scale}x against {first}x, per byte", value, 1.15)
    if effect := result.get("effect"):
        peer = min(effect[n]["tps"]["median"] for n in ["pg_dump -Fc", "pg_dump | zstd"])
        add("effect: pg_dump's tps over k1ops' during the backup", peer / effect[ours]["tps"]["median"], 1.0)
        lost = [effect[n].get("transactions_lost_per_backup") for n in [ours, "pg_dump -Fc"]]
        if all(n is not None and n > 0 for n in lost):
            add("effect: transactions lost per backup against pg_dump -Fc", lost[0] / lost[1], 1.0)
    if whole := result.get("stack"):
        theirs, all_of_ours = list(whole.values())
        add("whole stack: time against the guide's two commands", all_of_ours["wall_s"]["median"] / theirs["wall_s"]["median"],
            round(1 / 6, 4))
        add("whole stack: size against the guide's", all_of_ours["bytes"] / theirs["bytes"], 0.5)
    if stores := result.get("stores"):
        local, store = stores["k1ops backup, local disk"], stores["k1ops backup, S3"]
        # Round by round: the machine's speed changes from one to the next.
        slower = statistics.median(there / here for here, there in zip(local["walls"], store["walls"], strict=True))
        add("S3: time against the local disk", slower, round(1 / 0.9, 3), f"speed {1 / slower:.2f} of the local disk's")
        for peer in [name for name in stores if name.startswith("pg_dump | ")]:
            value, note = ratio("stores", "k1ops backup, S3", peer)
            add(f"S3: time against {peer.removesuffix(', S3')}", value, 1.0, note)
    if start := result.get("start_up"):
        add("start-up in ms", max(s["median_ms"] for s in start.values()), 10)
    if done := result.get("workers"):
        by_k1ops, *by_python = [run["per_second"] for run in done["runs"].values()]
        for peer, rate in zip(list(done["runs"])[1:], by_python, strict=True):
            add(f"worker: workflows a second of {peer} over k1ops'", rate / by_k1ops, 0.5)
    add("physical: time against the best peer", None, 1.0, "not run")
    if result.get("physical"):
        out.pop()
        best = min(s["wall_s"]["median"] for n, s in result["physical"].items() if not n.startswith("k1ops"))
        ours = "k1ops backup --physical"
        cpus = min(s["cpu_s"]["median"] for n, s in result["physical"].items() if not n.startswith("k1ops"))
        add("physical: time against the best peer", wall("physical", ours) / best, 1.0,
            f"by CPU seconds {cpu('physical', ours) / cpus:.2f}")
    return out


def table(head, rows):
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * w for w in widths], *rows]:
        cells = [str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def timed(section, reference=None):
    head = ["", "wall s", "min..max", "MAD", "CPU s", "client", "server", "peak MiB", "MB", "ratio"]
    rows = []
    for name, s in section.items():
        w = s["wall_s"]
        against = f"{section[reference]['wall_s']['median'] / w['median']:.2f}" if reference else ""
        rows.append([name, f"{w['median']:.2f}", f"{w['min']:.2f}..{w['max']:.2f}", f"{w['mad']:.2f}", f"{s['cpu_s']['median']:.2f}",
                     f"{s['client_cpu_s']['median']:.2f}", f"{s['server_cpu_s']['median']:.2f}", s["peak_mib"],
                     f"{s['bytes'] / 1e6:.1f}" if s["bytes"] else "", against])
    return table(head, rows)


def text(result):
    parts = [f"machine: {result['machine']['cpus']} CPUs, load {result['machine']['load']}, a fixed piece of work took "
             f"{result['machine']['calibration_s']}"]
    sizes = ", ".join(f"{scale}x {d['bytes'] / 1e6:.0f} MB" for scale, d in result["database"].items())
    parts.append(f"databases: {sizes}")
    for key, title, reference in [("backups", "Backup (ratio: k1ops' time over theirs)", "k1ops backup"),
                                  ("restores", "Restore (ratio: k1ops' time over theirs)", "k1ops restore"),
                                  ("scaling", "k1ops backup by size", None), ("floor", "Floor", None), ("physical", "Physical", None)]:
        if result.get(key):
            parts.append(f"{title}\n\n{timed(result[key], reference)}")
    if result.get("effect"):
        rows = [[n, f"{e['tps']['median']:.0f}", f"{e['tps']['min']:.0f}..{e['tps']['max']:.0f}", e.get("backup_wall_s", ""),
                 e.get("transactions_lost_per_backup", "")] for n, e in result["effect"].items()]
        parts.append("pgbench beside a backup\n\n" + table(["beside", "tps", "min..max", "backup s", "lost per backup"], rows))
    if done := result.get("workers"):
        rows = [[name, run["per_second"], f"{run['seconds']['min']:.1f}..{run['seconds']['max']:.1f}", run["peak_mib"]]
                for name, run in done["runs"].items()]
        parts.append(f"{done['workflows']} workflows of one task, {done['threads']} at once\n\n"
                     + table(["through", "a second", "s, min..max", "peak MiB"], rows))
    rows = [[t["target"], "-" if t["measured"] is None else t["measured"], t["at_most"],
             {True: "met", False: "NOT MET", None: "not run"}[t["met"]], t["note"]] for t in result["targets"]]
    parts.append("Targets\n\n" + table(["target", "measured", "at most", "", "note"], rows))
    if result["missing"]:
        parts.append("Missing, so not compared: " + ", ".join(result["missing"]))
    return "\n\n".join(parts)
