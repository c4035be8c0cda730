"""Text such as people and build tools write: words by Zipf's law, identifiers, paths, log lines.

Neither one repeated string nor noise, both of which would make compression look unlike real life.
Everything comes from one `random.Random`, so that a seed gives the same text again. No text holds a
quote or a backslash: it stands in JSON and in COPY's format as it is.
"""

import itertools
import string

BASE = """the of to and a in for is on that by this with as from it are be or an at not was can if all has
will one when more which each also but out only time new use any may first into after over other than
them some these two most where what then must should does how before same both such between under run
while still since last no next now per set end start stop line file test build code data task work
agent workflow queue message server client service request response error warning failure success retry
timeout deadline value result input output state status step stage phase gate check review plan change
merge commit branch release version package module crate library function method class struct field
type trait interface handler worker pool thread process memory disk network socket connection session
transaction database table row column index key constraint query statement cursor lock snapshot backup
restore archive member manifest checksum digest hash signature token secret user role permission policy
schema migration config option flag default limit threshold metric gauge counter histogram percentile
latency throughput coverage report summary detail event listener stream buffer parser lexer compiler
linter formatter scanner report finding severity vulnerability dependency upgrade downgrade rollback
deploy publish artifact image container volume cluster node leader follower replica shard partition
cache layer proxy gateway router endpoint payload header body cookie template page form button widget
report invoice order customer payment account balance currency price discount cart stock supplier search
filter sort page result ranking score model feature training label sample batch epoch evaluation prompt
context window answer question reason evidence example assumption decision trade risk cost benefit scope
missing broken slow fast empty full valid invalid unknown expected actual partial complete stale fresh
internal external public private static dynamic global local remote async parallel sequential atomic
adds removes fixes moves renames splits merges extracts replaces documents verifies measures reduces
avoids keeps drops returns raises catches handles rejects accepts converts encodes decodes parses writes
reads opens closes creates deletes updates inserts selects joins groups orders counts sums compares""".split()

ENDINGS = ["", "s", "ing", "ed", "er", "able", "less", "ment"]
PACKAGES = ["serde", "tokio", "hyper", "ring", "zstd", "clap", "regex", "bytes", "syn", "rand", "libc", "log"]
LEVELS = ["INFO ", "INFO ", "INFO ", "INFO ", "DEBUG", "DEBUG", "WARN ", "ERROR"]
HEX = "0123456789abcdef"


def _vocabulary():
    words = list(dict.fromkeys(BASE))
    for ending in ENDINGS[1:]:
        words += [word + ending for word in words[:len(dict.fromkeys(BASE))] if len(word) > 3]
    return words


WORDS = _vocabulary()
WEIGHTS = list(itertools.accumulate(1 / (rank + 8) for rank in range(len(WORDS))))
STEMS = [word for word in dict.fromkeys(BASE) if len(word) > 3]


class Prose:
    def __init__(self, rng):
        self.rng = rng

    def make(self, kind, size, newline):
        return getattr(self, kind)(size, newline)

    def prose(self, size, newline=" "):
        rng = self.rng
        words = rng.choices(WORDS, cum_weights=WEIGHTS, k=max(1, int(size * rng.uniform(0.5, 1.6))))
        for _ in range(len(words) // 9):
            words[int(rng.random() * len(words))] = self.ident(2)
        for at in range(11, len(words), 13):
            words[at] += rng.choice([".", ",", ",", ":", f" {rng.randrange(4000)}"])
        return " ".join(words)

    def ident(self, size, newline=""):
        return "_".join(self.rng.choices(STEMS, k=size)) + (str(self.rng.randrange(100)) if self.rng.random() < 0.3 else "")

    def number(self, size, newline=""):
        return str(round(self.rng.lognormvariate(5, 2), 2))

    def hex(self, size, newline=""):
        return f"{self.rng.getrandbits(4 * size):0{size}x}"

    def path(self, size, newline=""):
        return "/".join(["src", *self.rng.choices(STEMS, k=1 + int(self.rng.random() * 3)), self.ident(2)]) + ".rs"

    def log(self, size, newline):
        """The output of an agent: a few kinds of lines, each with something of its own."""
        rng = self.rng
        return newline.join(self.line(1, "") for _ in range(max(1, int(size * rng.uniform(0.3, 1.9)))))

    def line(self, size, newline=""):
        rng = self.rng
        pick = rng.random()
        if pick < 0.45:
            words = " ".join(rng.choices(WORDS, cum_weights=WEIGHTS, k=4 + int(rng.random() * 9)))
            return (f"2026-11-{1 + int(rng.random() * 28):02}T{int(rng.random() * 24):02}:{int(rng.random() * 60):02}:"
                    f"{rng.random() * 60:06.3f}Z {rng.choice(LEVELS)} {'::'.join(rng.choices(STEMS, k=2))}: {words} "
                    f"{rng.choice(STEMS)}={int(rng.random() * 100000)}")
        if pick < 0.65:
            return f"test {'::'.join(rng.choices(STEMS, k=2))}::{self.ident(4)} ... ok ({rng.random() * 9:.3f}s)"
        if pick < 0.75:
            return (f"   Compiling {rng.choice(PACKAGES)}-{rng.choice(STEMS)} v{int(rng.random() * 3)}."
                    f"{int(rng.random() * 40)}.{int(rng.random() * 20)}")
        if pick < 0.85:
            return f"  at {'.'.join(rng.choices(STEMS, k=4))}({self.path(1)}:{int(rng.random() * 900)})"
        if pick < 0.9:
            return f"commit {self.hex(40)} {self.prose(6)}"
        return self.prose(16)


assert not set("\"\\'") & set("".join(WORDS)) and set(HEX) < set(string.hexdigits)
