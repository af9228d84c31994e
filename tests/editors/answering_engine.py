"""A real engine process whose answers stand in the document: what editors do with them is then known to the letter.

    python -P tests/editors/answering_engine.py SOCKET [--forward-seconds S]

It writes what the last `# answer: "..."` (JSON) of the prefix says, one word a forward, in blocks of four; with
other temperatures, the same in capitals. An edit becomes its instruction. The rest is tests/model/scripted_engine.py.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from model.drafters import CostCurve
from model.schema import Draft, EditResponse, FillResponse, ModelInfo, ScoreResponse, TokenScore, Usage
from model.service import serve

BLOCK = 4
MODELS = [
    ModelInfo(
        name="answering", title="Answering", licence="none", bytes=1, state="loaded", verify="none", block=4
    )
]


class Answering:
    cost = CostCurve({1: 30.0, 8: 65.25})

    def __init__(self, seconds):
        self.seconds = seconds

    def written(self, text, on_draft, cancelled):
        """`text`, word after word, and how many; each block's later words are masks until they come."""
        words = re.findall(r"\s*\S+|\s+$", text)
        for number in range(len(words)):
            time.sleep(self.seconds)
            first = number // BLOCK * BLOCK
            block = [
                word if first + n < number else None for n, word in enumerate(words[first : first + BLOCK])
            ]
            if on_draft is not None:
                on_draft(Draft(text="".join(words[:first]), block=tuple(block), forwards=number + 1))
            if cancelled():
                return "".join(words[:number]), number, "cancelled"
        return text, len(words), "end_token"

    def fill(self, request, on_draft=None, cancelled=lambda: False):
        found = re.findall(r'# answer: (".*")', request.prefix)
        text = json.loads(found[-1]) if found else ""
        text = text.upper() if request.limits.temperature else text
        text, words, reason = self.written(text, on_draft, cancelled)
        usage = Usage(
            tokens=words, forwards=max(words, 1), prefill_tokens=3, cached_tokens=2, ms=10.0, prefill_ms=4.0
        )
        return FillResponse(text=text, confidence=0.9, stop_reason=reason, usage=usage, model="answering")

    def edit(self, request, on_draft=None, cancelled=lambda: False):
        text, words, reason = self.written(request.instruction, on_draft, cancelled)
        usage = Usage(
            tokens=words, forwards=max(words, 1), prefill_tokens=1, cached_tokens=0, ms=10.0, prefill_ms=1.0
        )
        return EditResponse(
            text=text, replacement=text, confidence=1.0, stop_reason=reason, usage=usage, model="answering"
        )

    def score(self, request):
        usage = Usage(tokens=0, forwards=1, prefill_tokens=1, cached_tokens=0, ms=1.0, prefill_ms=1.0)
        return ScoreResponse(tokens=(TokenScore(request.text, 0, -0.5),), usage=usage, model="answering")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("--forward-seconds", type=float, default=0.01)
    options = parser.parse_args()
    return serve(
        "answering", options.socket, lambda: Answering(options.forward_seconds), lambda: MODELS, idle_s=3600
    )


if __name__ == "__main__":
    sys.exit(main())
