"""A real engine process around a scripted generator: what the service does with time, failure and death.

    python -P tests/model/scripted_engine.py SOCKET [--idle-seconds S] [--load-seconds S] [--load-error TEXT]
    ...

It answers "a0 a1 a2 ..." (one word a forward, `max_tokens` words, the letter from the prefix), polling for
cancellation between two. Words in the prefix make it misbehave: RAISE, ERROR, ABORT, SLOW. The model itself is
tested elsewhere; here its place is taken by something whose every step is known.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from model.drafters import CostCurve
from model.engine import PROOF
from model.schema import (
    DiffcoderError,
    Draft,
    EditResponse,
    FillResponse,
    ModelInfo,
    ScoreResponse,
    TokenScore,
    Usage,
)
from model.service import serve

MODELS = [
    ModelInfo(
        name="scripted", title="Scripted", licence="none", bytes=1, state="loaded", verify="none", block=4
    )
]


class Scripted:
    cost = CostCurve({1: 30.0, 8: 65.25})

    def __init__(self, options):
        if options.load_error == "BUG":
            raise RuntimeError("the loader is broken")
        if options.load_error:
            raise DiffcoderError("model_missing", options.load_error)
        time.sleep(options.load_seconds)
        if options.load_abort:
            os.abort()
        self.seconds = options.forward_seconds

    def fill(self, request, on_draft=None, cancelled=lambda: False):
        text, forwards, reason, began = "", 0, "budget", time.monotonic()
        if "RAISE" in request.prefix:
            raise RuntimeError("a bug in the sampler")
        if "ERROR" in request.prefix:
            raise DiffcoderError("bad_gap", "The gap is not one; choose another.", 422)
        limits = request.limits
        for number in range(limits.max_tokens):
            if request is not PROOF:
                # SLOW is more than an automatic suggestion may take (features.inline.AUTOMATIC_MS).
                time.sleep(9.0 if "SLOW" in request.prefix else self.seconds)
            forwards += 1
            if "ABORT" in request.prefix and number == 2:
                os.abort()
            text += f"{request.prefix[:1]}{number}\u2028"
            if on_draft is not None:
                on_draft(Draft(text=text, block=(None, None), forwards=forwards))
            if cancelled():
                reason = "cancelled"
                break
            if limits.deadline_ms is not None and (time.monotonic() - began) * 1000 > limits.deadline_ms:
                reason = "deadline"
                break
        usage = Usage(
            tokens=forwards, forwards=forwards, prefill_tokens=3, cached_tokens=2, ms=10.0, prefill_ms=4.0
        )
        return FillResponse(text=text, confidence=0.5, stop_reason=reason, usage=usage, model="scripted")

    def edit(self, request, on_draft=None, cancelled=lambda: False):
        usage = Usage(tokens=1, forwards=1, prefill_tokens=1, cached_tokens=0, ms=1.0, prefill_ms=1.0)
        return EditResponse(
            text=request.instruction + "\n",
            replacement=request.instruction,
            confidence=1.0,
            stop_reason="end_token",
            usage=usage,
            model="scripted",
        )

    def score(self, request):
        usage = Usage(tokens=0, forwards=1, prefill_tokens=1, cached_tokens=0, ms=1.0, prefill_ms=1.0)
        return ScoreResponse(tokens=(TokenScore(request.text, 0, -0.5),), usage=usage, model="scripted")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=600)
    parser.add_argument("--load-seconds", type=float, default=0)
    parser.add_argument("--load-error", default="")
    parser.add_argument("--load-abort", action="store_true")
    parser.add_argument("--forward-seconds", type=float, default=0.01)
    parser.add_argument("--tcp", type=int)
    options = parser.parse_args()
    try:
        return serve(
            "scripted",
            options.socket,
            lambda: Scripted(options),
            lambda: MODELS,
            idle_s=options.idle_seconds,
            tcp_port=options.tcp,
        )
    except DiffcoderError as error:
        print(error.message, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
