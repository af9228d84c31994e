"""CrossCodeEval (arXiv 2310.11248): complete a statement that needs other files; by a path to one of its
files.

Rows have prompt, groundtruth, right_context, metadata.task_id and crossfile_context. Exact match and edit
similarity of the first statement: for Python the shortest run of lines that parses after the prompt's last
line, for others the first line; comments left out. The published harness cuts with tree-sitter and compares
identifiers too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation.sandbox import Sandbox
from evaluation.similarity import edit_similarity
from evaluation.task import Control, Item, Request, Style, Task, data_file, field, read_rows
from evaluation.verdicts import Verdict
from model.schema import FillRequest, Snippet
from model.schema import Limits as Budget

COMMENTS = {"python": re.compile(r"#.*"), "other": re.compile(r"//.*|/\*.*?\*/", re.S)}


class CrossCodeEval(Task):
    name = "crosscodeeval"
    title = "CrossCodeEval, statement completion"
    files = ("crosscodeeval/python/line_completion_rg1_bm25.jsonl",)
    origin = "github.com/amazon-science/cceval"
    completion = "the text that continues `prompt`"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        language = next(
            (n for n in ("java", "typescript", "csharp") if n in path.parts or n in path.name), "python"
        )
        found = []
        for row in read_rows(path):
            field(row, "prompt", path), field(row, "groundtruth", path)
            name = str(field(field(row, "metadata", path), "task_id", path))
            found.append(Item(name, row | {"language": language}))
        return found

    def request(self, item: Item, style: Style) -> Request:
        row = item.row
        return FillRequest(
            prefix=row["prompt"],
            suffix=row.get("right_context") or "",
            snippets=snippets(row.get("crossfile_context")),
            language=row["language"],
            limits=Budget(max_tokens=50),
        )

    def extract(self, item: Item, text: str, style: Style) -> str:
        return statement(item.row["prompt"], text, item.row["language"])

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        language = item.row["language"]
        ours, theirs = (bare(text, language) for text in (completion, item.row["groundtruth"]))
        return Verdict(ours == theirs, "passed" if ours == theirs else "another statement", 0.0)

    def measures(self, item: Item, completion: str, verdict: Verdict, sandbox: Sandbox) -> dict[str, float]:
        return {"edit_similarity": edit_similarity(completion, item.row["groundtruth"])}

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("ground truth", item.row["groundtruth"], True)
        yield Control("empty", "", False)


def snippets(context: Any) -> tuple[Snippet, ...]:
    listed = context.get("list", ()) if isinstance(context, dict) else ()
    return tuple(Snippet(str(c.get("filename", "")), str(c.get("retrieved_chunk", ""))) for c in listed)


def statement(prompt: str, text: str, language: str) -> str:
    """The first statement of a continuation."""
    lines = text.split("\n")
    if language != "python":
        return lines[0]
    start = prompt[prompt.rfind("\n") + 1 :].lstrip()
    for count in range(1, len(lines) + 1):
        shown = "\n".join(lines[:count])
        try:
            ast.parse(start + shown + ("\n    pass" if shown.rstrip().endswith(":") else ""))
        except (SyntaxError, ValueError, RecursionError):
            continue
        return shown
    return lines[0]


def bare(text: str, language: str) -> list[str]:
    text = COMMENTS["python" if language == "python" else "other"].sub("", text)
    return [line.strip() for line in text.split("\n") if line.strip()]
