"""The data plane against what else joins two processes: ./step3 bench dataplane.

Per transport and size, between this process and one other:

- one way: half the round trip of a message that comes back whole, median and 99th percentile;
- bandwidth: messages one way without a pause, acknowledged once, or by the credits of a channel.

A hop takes the payload from a buffer of the sender's to where the receiver can compute with it.
Sockets have the kernel copy it in and out. Over shm it is copied into the slot and read where it
lies, as the services do. "memcpy" is that copy and nothing else, both sides spinning; "memcpy pair"
also copies out. gRPC and ZeroMQ carry bytes as they are: no protobuf, no copy into a
message. Each process has a core of its own; what has threads of its own (gRPC, ZeroMQ) has all
cores. All take turns in every repetition, so that the machine's load meets all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.progress import Progress

from benchmarks.ends import ENDS, place, serve
from benchmarks.ends.plan import TIMEOUT_S, Pipe, Plan
from benchmarks.report import Claim, Report, Row

SIZES = {"4 KiB": 2**12, "64 KiB": 2**16, "1 MiB": 2**20, "8 MiB": 2**23}
_ROUND_TRIPS = {2**12: 400, 2**16: 300, 2**20: 100, 2**23: 30}
_STREAM_BYTES = 2**28
_MAX_STREAMED = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition's figures of one transport at one size."""

    p50_us: float
    p99_us: float
    gigabytes_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="step3 bench dataplane", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    report = Report("dataplane")
    add_figures(report, measure_all(arguments.sizes, arguments.repeats))
    report.show()
    if arguments.json:
        report.write(arguments.json)


def measure_all(sizes: list[str], repeats: int) -> dict[tuple[str, str], list[Sample]]:
    """Samples by size and transport."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, Progress(transient=True) as progress:
        peer = context.Process(target=serve, args=(there, scratch), daemon=True)
        peer.start()
        there.close()
        try:
            task = progress.add_task("", total=repeats * len(sizes) * len(ENDS))
            for _ in range(repeats):
                for size in sizes:
                    for name in ENDS:
                        progress.update(task, description=f"{size}, {name}")
                        samples.setdefault((size, name), []).append(measure(here, name, size))
                        progress.advance(task)
            here.send(None)
            peer.join(TIMEOUT_S)
        finally:
            peer.kill()
    return samples


def measure(pipe: Pipe, name: str, size: str) -> Sample:
    """One repetition of one transport."""
    n_bytes = SIZES[size]
    streamed = min(_MAX_STREAMED, max(8, _STREAM_BYTES // n_bytes))
    plan = Plan(n_bytes, _ROUND_TRIPS[n_bytes], streamed)
    place(name, server=False)
    pipe.send((name, plan))
    if not pipe.poll(TIMEOUT_S):
        raise SystemExit(f"error: the other process did not set up {name}")
    _, client = ENDS[name]
    with client(pipe.recv(), plan) as end:
        for _ in range(plan.warm_up):
            end.round_trip()
        times_ns = []
        for _ in range(plan.round_trips):
            began = time.monotonic_ns()
            end.round_trip()
            times_ns.append(time.monotonic_ns() - began)
        began = time.monotonic_ns()
        end.stream()
        stream_ns = time.monotonic_ns() - began
    pipe.send("done")
    times_ns.sort()
    return Sample(
        p50_us=median(times_ns) / 2e3,
        p99_us=times_ns[int(0.99 * (len(times_ns) - 1))] / 2e3,
        gigabytes_s=plan.streamed * plan.n_bytes / stream_ns,
    )


def add_figures(report: Report, samples: dict[tuple[str, str], list[Sample]]) -> None:
    """Rows of all figures; claims where a ratio was promised."""
    for (size, name), values in samples.items():
        title = f"{size}, {name}"
        report.rows += [
            Row.of(f"{title}, one way p50", [value.p50_us for value in values], "us"),
            Row.of(f"{title}, one way p99", [value.p99_us for value in values], "us"),
            Row.of(f"{title}, bandwidth", [value.gigabytes_s for value in values], "GB/s"),
        ]

    def faster(ours: str, theirs: str, reach: float) -> None:
        pairs = zip(samples["1 MiB", ours], samples["1 MiB", theirs], strict=True)
        value = median(b.p50_us / a.p50_us for a, b in pairs)
        name = f"1 MiB: {theirs} / {ours}, one way p50"
        report.claims.append(Claim.at_least(name, value, reach, "x"))

    if ("1 MiB", "shm") in samples:
        faster("shm", "gRPC stream", 8.0)
        # One copy a hop on both sides; the pair, which copies twice, is the easier mark.
        faster("shm", "memcpy", 0.9)
        faster("shm", "memcpy pair", 0.9)
        # Not slower by more than 15 %.
        faster("tcp", "raw tcp", 1 / 1.15)


if __name__ == "__main__":
    main()
