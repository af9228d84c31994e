"""Figures that others published, to stand beside ours: always marked as theirs, with the source. Percent.

Keys are task names here. Different prompts, precisions and hardware: they set the scale, not a contest.
"""

from __future__ import annotations

from typing import NamedTuple


class Theirs(NamedTuple):
    """One published figure."""

    task: str
    model: str
    figure: float
    source: str


_SDC = "Stable-DiffCoder, arXiv 2601.15892"
_DLLM = "dLLM, its model cards (on Qwen2.5-Coder-0.5B)"
_QWEN = "Qwen2.5-Coder report, arXiv 2409.12186 (bf16, chat, greedy)"
_OPEN = "Open-dLLM, its README"

FIGURES: tuple[Theirs, ...] = (
    Theirs("humaneval", "Qwen2.5-Coder-0.5B-Instruct", 61.6, _QWEN),
    Theirs("humanevalplus", "Qwen2.5-Coder-0.5B-Instruct", 57.3, _QWEN),
    Theirs("humaneval", "BD3LM 0.5B", 39.0, _DLLM),
    Theirs("mbpp", "BD3LM 0.5B", 33.2, _DLLM),
    Theirs("humaneval", "MDLM 0.5B", 28.1, _DLLM),
    Theirs("mbpp", "MDLM 0.5B", 23.0, _DLLM),
    Theirs("humaneval", "Open-dCoder 0.5B", 20.8, _OPEN),
    Theirs("mbpp", "Open-dCoder 0.5B", 35.2, _OPEN),
    Theirs("humaneval-infilling-single", "Open-dCoder 0.5B (HumanEval-Infill)", 32.5, _OPEN),
    Theirs("humaneval-infilling-single-length", "Open-dCoder 0.5B, true length", 77.4, _OPEN),
    Theirs("humaneval-infilling-single", "DiffuCoder 7B (HumanEval-Infill)", 54.8, _OPEN),
    Theirs("humaneval-infilling-single", "Dream-Coder 7B (HumanEval-Infill)", 55.3, _OPEN),
    Theirs("humaneval", "Stable-DiffCoder-8B-Instruct", 86.6, _SDC),
    Theirs("humanevalplus", "Stable-DiffCoder-8B-Instruct", 82.3, _SDC),
    Theirs("mbpp", "Stable-DiffCoder-8B-Instruct", 85.7, _SDC),
    Theirs("mbppplus", "Stable-DiffCoder-8B-Instruct", 72.8, _SDC),
    Theirs("mhpp", "Stable-DiffCoder-8B-Instruct", 42.4, _SDC),
    Theirs("bigcodebench", "Stable-DiffCoder-8B-Instruct", 54.8, _SDC),
    Theirs("bigcodebench-hard", "Stable-DiffCoder-8B-Instruct", 31.8, _SDC),
    Theirs("livecodebench", "Stable-DiffCoder-8B-Instruct (v5)", 23.5, _SDC),
    Theirs("canitedit-descriptive", "Stable-DiffCoder-8B-Instruct (both kinds)", 60.0, _SDC),
    Theirs("canitedit-descriptive", "Seed-Coder-8B-Instruct (both kinds)", 50.5, _SDC),
    Theirs("aider-polyglot", "Stable-DiffCoder-8B-Instruct (Aider, two tries)", 54.9, _SDC),
    Theirs("aider-polyglot", "Seed-Coder-8B-Instruct (Aider, two tries)", 57.1, _SDC),
    Theirs("cruxeval-input", "Stable-DiffCoder-8B-Instruct", 62.1, _SDC),
    Theirs("cruxeval-output", "Stable-DiffCoder-8B-Instruct", 69.0, _SDC),
    Theirs("humaneval", "Stable-DiffCoder-8B-Base", 79.3, _SDC),
    Theirs("humanevalplus", "Stable-DiffCoder-8B-Base", 73.8, _SDC),
    Theirs("mbpp", "Stable-DiffCoder-8B-Base", 83.6, _SDC),
    Theirs("mbppplus", "Stable-DiffCoder-8B-Base", 67.7, _SDC),
    Theirs("cruxeval-input", "Stable-DiffCoder-8B-Base", 53.8, _SDC),
    Theirs("cruxeval-output", "Stable-DiffCoder-8B-Base", 60.0, _SDC),
)


def of(task: str) -> list[Theirs]:
    return [figure for figure in FIGURES if figure.task == task]
