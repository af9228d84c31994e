"""llama.cpp's own infill, as its server offers it, on the same weights: a peer for gaps.

    python -P -m benchmarks.peer_llama_infill GGUF THREADS

Listens on a loopback port of its own choice, whose address is the first line it writes; ends with its standard
input. Settings are its defaults but for the threads and one slot.
"""

from __future__ import annotations

import os
import sys

import xllamacpp


def main(gguf: str, threads: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address, file=out, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
