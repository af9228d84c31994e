"""llama.cpp's own infill, as its server offers it, on the same weights: a peer for gaps.

    python -P -m benchmarks.peer_llama_infill GGUF THREADS

Listens on a loopback port of its own choice, whose address is the first line it writes; ends with its standard
input. Settings are its defaults but for the threads and one slot.
"""

from __future__ import annotations

import os
import sys

from benchmarks.peer_llama_cpp import server


def main(gguf: str, threads: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints
    peer = server(gguf, threads)  # it listens as long as somebody holds it
    print(peer.listening_address, file=out, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
