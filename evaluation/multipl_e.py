"""MultiPL-E (arXiv 2208.08227): HumanEval translated to other languages; tests of each language, its own
toolchain.

Prompts and stop strings are those of the data; the program is prompt + completion + tests, as in its
containers. A language whose toolchain is not on this machine is unavailable by name. The data has no
solutions (and may not be trained on), so the self-check brings one of its own for one problem of each
language.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluation.languages import LANGUAGES, run_program
from evaluation.sandbox import Sandbox
from evaluation.task import (
    Continuation,
    Control,
    Item,
    Request,
    Style,
    Task,
    cut_at,
    data_file,
    read_rows,
    to_items,
)
from evaluation.verdicts import Verdict

# Bodies for HumanEval_23_strlen, ours.
STRLEN = {
    "js": "  return string.length;\n}\n",
    "ts": "  return string.length;\n}\n",
    "java": "        return string.length();\n",
    "cpp": "    return string.length();\n",
    "rs": "    string.len() as isize\n",
    "sh": '    echo "${#1}"\n',
    "go": "    return len(myString)\n}\n",
    "php": "    return \\strlen($string);\n}\n",
    "cs": "        return myString.Length;\n",
}


class MultiplE(Task):
    origin = "huggingface.co/datasets/nuprl/MultiPL-E"
    completion = "the body of the function: what follows `prompt`, up to its stop string"
    group = "multipl-e"

    def __init__(self, language: str):
        self.language = language
        self.name = f"multipl-e-{language}"
        self.title = f"MultiPL-E HumanEval, {LANGUAGES[language].name}"
        self.files = (f"multipl_e/humaneval-{language}.jsonl.gz",)

    def unavailable(self) -> str | None:
        return LANGUAGES[self.language].unavailable()

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="name", needs=("prompt", "tests", "stop_tokens"))

    def request(self, item: Item, style: Style) -> Request:
        return Continuation(prompt=item.row["prompt"], stop=tuple(item.row["stop_tokens"]))

    def extract(self, item: Item, text: str, style: Style) -> str:
        return cut_at(text, item.row["stop_tokens"])

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        program = f"{item.row['prompt']}{completion}\n{item.row['tests']}"
        return run_program(LANGUAGES[self.language], program, sandbox)

    def controls(self, item: Item) -> Iterable[Control]:
        if item.id == "HumanEval_23_strlen":
            yield Control("own solution", STRLEN[self.language], True)
            yield Control("empty", "\n" if not STRLEN[self.language].endswith("}\n") else "}\n", False)


TASKS = tuple(MultiplE(language) for language in STRLEN)
