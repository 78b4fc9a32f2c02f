from __future__ import annotations

import pytest

from benchmarks.dataplane import Sample, add_figures, measure_all
from benchmarks.ends import ENDS
from benchmarks.report import Report


def figures(**p50_us: float) -> dict[tuple[str, str], list[Sample]]:
    return {("1 MiB", name): [Sample(p50_us.get(name, 1.0), 2.0, 3.0)] for name in ENDS}


def claims(samples: dict[tuple[str, str], list[Sample]]) -> dict[str, bool]:
    report = Report("dataplane")
    add_figures(report, samples)
    assert len(report.rows) == 3 * len(ENDS)
    return {claim.id.split(",")[0]: claim.met for claim in report.claims}


def test_the_claims_are_ratios_of_the_times_at_one_mebibyte():
    slow_grpc = figures(**{"gRPC stream": 8.0, "memcpy": 0.91, "memcpy pair": 0.91, "tcp": 1.14})
    assert all(claims(slow_grpc).values())
    fast_grpc = figures(**{"gRPC stream": 7.9, "memcpy": 0.89, "memcpy pair": 0.89, "tcp": 1.16})
    assert claims(fast_grpc) == {
        "1 MiB: gRPC stream / shm": False,
        "1 MiB: memcpy / shm": False,
        "1 MiB: memcpy pair / shm": False,
        "1 MiB: raw tcp / tcp": False,
    }


@pytest.mark.slow
def test_every_transport_carries_the_smallest_size():
    samples = measure_all(["4 KiB"], repeats=1)
    assert {name for _, name in samples} == set(ENDS)
    for (sample,) in samples.values():
        assert 0 < sample.p50_us <= sample.p99_us
        assert sample.gigabytes_s > 0
