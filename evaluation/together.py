"""Python tests that must share a process with the code they test: `unittest` classes, mocks, looks into
classes.

Program and tests run as one script whose last statement prints a random word; early exits and printed
claims fail. A program that goes looking for the word in its own process could still forge it
(docs/evaluation.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluation.sandbox import Limits, Sandbox, package_folders
from evaluation.verdicts import Verdict, judge_command, random_word

# Program and tests are one file, run as `__main__`: some tests read their program's source through `inspect`.
SCRIPT = """
import sys, types
sys.path[:0] = [{folder!r}]
sys.path += {packages!r}
module = types.ModuleType("__main__")
module.__file__ = "program.py"
sys.modules["__main__"] = module
with open("program.py", encoding="utf-8", errors="surrogatepass", newline="") as file:
    code = compile(file.read(), "program.py", "exec")
lines, reached = set(), set()
if {trace!r}:
    def collect(code):
        lines.update(line for _, _, line in code.co_lines() if line and line <= {own_lines})
        for constant in code.co_consts:
            if hasattr(constant, "co_lines"):
                collect(constant)
    def follow(frame, event, argument):
        if frame.f_code.co_filename != "program.py":
            return None
        reached.add(frame.f_lineno)
        return follow
    collect(code)
    sys.settrace(follow)
exec(code, module.__dict__)
sys.settrace(None)
if {unittest!r}:
    import io, unittest
    loader = unittest.TestLoader()
    named = getattr(module, "TestCases", None)
    cases = loader.loadTestsFromTestCase(named) if named else loader.loadTestsFromModule(module)
    result = unittest.TextTestRunner(stream=io.StringIO()).run(cases)
    if not result.wasSuccessful() or not result.testsRun:
        bad = (result.errors + result.failures or [(None, "no test ran")])[0]
        sys.exit("AssertionError: " + bad[1].strip().rsplit("\\n", 1)[-1])
if {trace!r}:
    print(f"coverage {{len(reached & lines) / max(1, len(lines))}}", file=sys.stderr)
print()
print({word!r})
"""


def run_together(
    sandbox: Sandbox,
    program: str,
    tests: str,
    limits: Limits,
    *,
    unittest: bool = False,
    trace: bool = False,
    files: Mapping[str, str] | None = None,
    before: Sequence[Sequence[str]] = (),
) -> tuple[Verdict, float | None]:
    """The verdict, and with `trace` the share of the program's lines that program and tests reached."""
    word = random_word()
    script = SCRIPT.format(
        folder=os.curdir,
        packages=package_folders(),
        trace=trace,
        unittest=unittest,
        word=word,
        own_lines=program.count("\n") + 1,
    )
    python = os.path.realpath(sys.executable)
    everything = {"program.py": f"{program}\n\n{tests}\n", "main.py": script, **(files or {})}
    steps = [*before, [python, "-S", "main.py"]]
    verdict, outcome = judge_command(sandbox, steps, everything, replace(limits, address_space=True), word)
    share = None
    for line in outcome.stderr.decode(errors="replace").splitlines():
        if line.startswith("coverage "):
            share = float(line.split()[1])
    return verdict, share
