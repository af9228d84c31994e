"""llama.cpp through the wheel `xllamacpp`, as a peer.

    python -P -m benchmarks.peer_llama_cpp GGUF THREADS

Its server is called in this process, so no HTTP is measured; its own timings are reported. Settings are its
defaults (flash attention, repacked weights, batch sizes) but for the threads, one slot, and no copies of idle
prompts, which would cost it time.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import xllamacpp

from benchmarks.peers import Ask, Reply, resident_bytes, serve


def server(gguf: str, threads: str) -> xllamacpp.Server:
    """llama.cpp's server with the settings that every peer of this kind has."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    return xllamacpp.Server(parameters)


def main(gguf: str, threads: str) -> None:
    peer = server(gguf, threads)

    def answer(ask: Ask) -> Reply:
        begin = time.perf_counter()
        body: Any = peer.handle_completions(
            {
                "prompt": list(ask.ids),
                "max_tokens": ask.tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": ask.reuse,
            }
        )
        ms = (time.perf_counter() - begin) * 1000
        timings = body["timings"]
        return Reply(
            text=body["choices"][0]["text"],
            tokens=timings["predicted_n"],
            prefill_tokens=timings["prompt_n"],
            prefill_ms=timings["prompt_ms"],
            decode_ms=timings["predicted_ms"],
            ms=ms,
            rss_bytes=resident_bytes(),
        )

    serve(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
