#!/usr/bin/env python3
"""How many pages one recorded read fault stands for, measured on smaps snapshots.

usage: fault_around.py PREFIX...     (PREFIX.perf.xz and PREFIX.smaps.xz, as recorded)

A modern kernel maps up to 16 pages of a file with one read fault. For each file mapping of each process that appears in at
least three snapshots: resident pages in the last snapshot that are not anonymous, the most pages found referenced in an
interval without a fault in that mapping (accessed bits are cleared at each snapshot), and read faults up to the last
snapshot. The sums and their quotients are the table in crates/trace/src/assumptions.rs.
"""
import collections
import lzma
import re
import sys

EVENT = re.compile(r"^(-?\d+)/(-?\d+) \[\d+\] (\d+\.\d+): (.*)$")
FAULT = re.compile(r"address=0x([0-9a-f]+).*error_code=0x([0-9a-f]+)")
FORK = re.compile(r"\((\d+):(\d+)\):\((\d+)")


def read_faults(path):
    """Process -> [(time, address)] of read faults since its last exec, and when that was."""
    faults, start = collections.defaultdict(list), {}
    for line in lzma.open(path, "rt", errors="replace"):
        m = EVENT.match(line)
        if not m:
            continue
        pid, time, rest = int(m[1]), float(m[3]), m[4]
        if rest.startswith("exceptions:page_fault"):
            f = FAULT.search(rest)
            if not int(f[2], 16) & 2:
                faults[pid].append((time, int(f[1], 16)))
        elif "COMM exec" in rest:
            start[pid], faults[pid] = time, []
        elif "RECORD_FORK" in rest:
            f = FORK.search(rest)
            if f[1] != f[3]:
                start[int(f[1])] = time
    return faults, start


def snapshots(path):
    """Yields (pid, start, end, kind, time, resident pages not anonymous, referenced pages) of file mappings."""
    pid = time = mapping = None
    kb = {}

    def row():
        if mapping and kb.get("Rss:"):
            resident = (kb["Rss:"] - kb.get("Anonymous:", 0)) // 4
            yield (pid, *mapping, time, resident, kb.get("Referenced:", 0) // 4)

    for line in lzma.open(path, "rt"):
        w = line.split()
        if w[0] == "@" or re.match(r"^[0-9a-f]+-[0-9a-f]+$", w[0]):
            yield from row()
            mapping, kb = None, {}
        if w[0] == "@":
            time, pid = float(w[1]), int(w[2][4:])
        elif "-" in w[0] and w[0][-1] != ":":
            a, b = (int(x, 16) for x in w[0].split("-"))
            mapping = (a, b, "private" if w[1][3] == "p" else "shared") if int(w[4]) else None
        else:
            kb[w[0]] = int(w[1])
    yield from row()


def measure(prefix):
    faults, start = read_faults(prefix + ".perf.xz")
    seen = collections.defaultdict(list)
    for pid, a, b, kind, time, resident, referenced in snapshots(prefix + ".smaps.xz"):
        if pid in start:
            seen[pid, a, b, kind].append((time, resident, referenced))
    total = collections.defaultdict(lambda: [0, 0, 0, 0])
    for (pid, a, b, kind), snaps in seen.items():
        if len(snaps) < 3:
            continue
        inside = [t for t, va in faults[pid] if a <= va < b]
        quiet = [
            min(ref, res)
            for (before, _, _), (now, res, ref) in zip(snaps, snaps[1:])
            if not any(before <= t < now for t in inside)
        ]
        if quiet:
            sums = total[kind]
            sums[0] += 1
            sums[1] += snaps[-1][1]
            sums[2] += max(quiet)
            sums[3] += sum(t < snaps[-1][0] for t in inside)
    for kind, (mappings, resident, referenced, n) in sorted(total.items()):
        print(
            f"{prefix.rsplit('/', 1)[-1]} {kind}: {mappings} mappings, {n} read faults, "
            f"resident {resident} ({resident / n:.2f} a fault), referenced again {referenced} ({referenced / n:.2f} a fault)"
        )


for name in sys.argv[1:]:
    measure(name)
