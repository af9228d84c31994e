"""The facts about this machine that a speed depends on, for the head of a report. Linux tells the most."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

COPY_BYTES = 256 << 20


class Machine(msgspec.Struct, frozen=True):
    """`copy_gb_s`: bytes read plus bytes written a second while every thread copies. `busy`: share of the
    processors that other programs used just before the run, 0..1; above a few percent times mean little."""

    processor: str
    cores: int
    threads: int
    vectors: tuple[str, ...]
    memory_gb: float
    copy_gb_s: float
    busy: float
    system: str


def describe(threads: int) -> Machine:
    """Takes about three seconds: it watches the processors for two, then copies memory."""
    fields = _cpuinfo()
    flags = fields.get("flags", "").split()
    return Machine(
        processor=fields.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 0,
        threads=threads,
        vectors=tuple(
            name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags
        ),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        busy=_busy(2.0),
        copy_gb_s=_copy(threads),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    )


def _cpuinfo() -> dict[str, str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.partition(":") for line in file.read().partition("\n\n")[0].splitlines()]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in lines}


def _busy(seconds: float) -> float:
    def ticks() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:
            numbers = [int(number) for number in file.readline().split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        total_after, idle_after = ticks()
    except OSError:
        return 0.0
    return round(1 - (idle_after - idle) / max(1, total_after - total), 3)


def _copy(threads: int) -> float:
    """The best of three, in GB/s."""
    pairs = [(np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            begin = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = min(best, time.perf_counter() - begin)
    return round(2 * COPY_BYTES * threads / best / 1e9, 1)
