"""How a program of another language is built and run in a room, and how its tests are made to say that they
ended.

Each language names its tools; one that lacks a tool on this machine is unavailable by name. Knows no
benchmark.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evaluation.sandbox import Limits, Sandbox, rust_sysroot
from evaluation.verdicts import Verdict, judge_command, random_word

VM_LIMITS = Limits(wall_s=60.0, cpu_s=60, memory_mb=2048, processes=128, address_space=False)
JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss64m")

# What MultiPL-E's Java tests import: tuples that compare by value (javatuples' names, the few methods used).
TUPLES = ("Unit", "Pair", "Triplet", "Quartet", "Quintet", "Sextet", "Septet", "Octet", "Ennead", "Decade")
# What MBXP's JavaScript tests use of lodash: deep equality.
LODASH = """
function isEqual(a, b) {
  if (a === b || (a !== a && b !== b)) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Object.prototype.toString.call(a) !== Object.prototype.toString.call(b)) return false;
  if (a instanceof Date || a instanceof Number || a instanceof String || a instanceof Boolean)
    return isEqual(a.valueOf(), b.valueOf());
  if (a instanceof Map)
    return a.size === b.size && [...a].every(([k, v]) => b.has(k) && isEqual(v, b.get(k)));
  if (a instanceof Set) return a.size === b.size && [...a].every((v) => [...b].some((w) => isEqual(v, w)));
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((k) => Object.prototype.hasOwnProperty.call(b, k) && isEqual(a[k], b[k]));
}
module.exports = { isEqual };
"""


@dataclass(frozen=True)
class Language:
    """`source` is the file's name, `steps` build and run it; `say` is the statement that prints a word, put
    before the `closing`-th last brace of the program (0: at its end). `support` are files beside it."""

    name: str
    tools: tuple[str, ...]
    source: str
    steps: tuple[tuple[str, ...], ...]
    say: str
    closing: int = 0
    support: Callable[[], Mapping[str, str]] = field(default=dict)

    def unavailable(self) -> str | None:
        missing = [tool for tool in self.tools if not found(tool)]
        return f"{self.name} needs {' and '.join(missing)}, not on this machine." if missing else None


@functools.cache
def found(tool: str) -> bool:
    return (rust_sysroot() if tool == "rustc" else shutil.which(tool)) is not None


def tuples() -> dict[str, str]:
    """Source of the Java tuple classes, by file name."""
    files = {}
    for size, name in enumerate(TUPLES, 1):
        letters = [chr(ord("A") + i) for i in range(size)]
        kinds = ", ".join(letters)
        values = ", ".join(f"v{i}" for i in range(size))
        parameters = ", ".join(f"{letter} v{i}" for i, letter in enumerate(letters))
        lines = [
            "package org.javatuples;",
            f"public final class {name}<{kinds}> {{",
            "  private final Object[] all;",
        ]
        lines.append(f"  public {name}({parameters}) {{ all = new Object[] {{ {values} }}; }}")
        lines.append(
            f"  public static <{kinds}> {name}<{kinds}> with({parameters}) "
            f"{{ return new {name}<>({values}); }}"
        )
        for i, letter in enumerate(letters):
            lines.append(
                f'  @SuppressWarnings("unchecked") public {letter} getValue{i}() '
                f"{{ return ({letter}) all[{i}]; }}"
            )
        lines.append("  public int getSize() { return all.length; }")
        lines.append("  public int hashCode() { return java.util.Arrays.hashCode(all); }")
        lines.append("  public String toString() { return java.util.Arrays.toString(all); }")
        lines.append("  public boolean equals(Object o) {")
        lines.append(f"    return o instanceof {name} t && java.util.Arrays.equals(all, t.all);")
        files[f"org/javatuples/{name}.java"] = "\n".join([*lines, "  }", "}"]) + "\n"
    return files


LANGUAGES = {
    "python": Language(
        "Python", (), "program.py", (("python3", "-I", "program.py"),), "\nprint({word!r}, flush=True)\n"
    ),
    "js": Language(
        "JavaScript",
        ("node",),
        "program.js",
        (("node", "program.js"),),
        "\nconsole.log({word!r});\n",
        support=lambda: {"node_modules/lodash/index.js": LODASH},
    ),
    "ts": Language(
        "TypeScript",
        ("tsc", "node"),
        "program.ts",
        (("tsc", "--target", "es5", "--lib", "es5,dom,es2015,es2020", "program.ts"), ("node", "program.js")),
        "\nconsole.log({word!r});\n",
    ),
    "java": Language(
        "Java",
        ("javac", "java"),
        "Program.java",
        (
            (
                "javac",
                "-encoding",
                "UTF8",
                "-J-XX:+UseSerialGC",
                "-J-XX:TieredStopAtLevel=1",
                "-cp",
                ".",
                "Program.java",
            ),
            ("java", "-ea", *JAVA, "-cp", ".", "{main}"),
        ),
        'System.out.println("{word}");',
        closing=2,
    ),
    "cpp": Language(
        "C++",
        ("g++",),
        "program.cpp",
        (("g++", "-std=c++17", "program.cpp", "-o", "program"), ("./program",)),
        '\nstd::puts("{word}");\n',
        closing=1,
    ),
    "rs": Language(
        "Rust",
        ("rustc",),
        "program.rs",
        (("rustc", "-A", "warnings", "program.rs", "-o", "program"), ("./program",)),
        '\nprintln!("{word}");\n',
        closing=1,
    ),
    "sh": Language("Bash", ("bash",), "program.sh", (("bash", "program.sh"),), "\necho {word}\n"),
    "go": Language("Go", ("go",), "program_test.go", (("go", "test", "program_test.go"),), ""),
    "php": Language("PHP", ("php",), "program.php", (("php", "program.php"),), '\necho "{word}\\n";\n'),
    "cs": Language(
        "C#",
        ("mcs", "mono"),
        "program.cs",
        (
            ("mcs", "-d:DEBUG", "-r:System.Numerics.dll", "program.cs", "-out:program.exe"),
            ("mono", "program.exe"),
        ),
        'Console.WriteLine("{word}");',
        closing=2,
    ),
}


def with_word(language: Language, program: str, word: str) -> str:
    """The program that prints `word` when its last test has passed."""
    statement = language.say.format(word=word)
    if not language.closing:
        return program + statement
    place = len(program)
    for _ in range(language.closing):
        place = program.rfind("}", 0, place)
    return program if place < 0 else program[:place] + statement + program[place:]


def java_main(program: str) -> str:
    """The class that holds `main`: the last one that begins before it."""
    main = program.rfind("public static void main")
    if main < 0:
        main = program.rfind("public static void Main")
    names = re.findall(r"^\s*(?:public\s+|final\s+|abstract\s+)*class\s+(\w+)", program[: max(main, 0)], re.M)
    return names[-1] if names else "Main"


def run_program(
    language: Language,
    program: str,
    sandbox: Sandbox,
    limits: Limits = VM_LIMITS,
    files: Mapping[str, str] | None = None,
) -> Verdict:
    """Build and run program and tests as one file; passes when its last statement is reached and all
    succeed."""
    word = random_word()
    source = with_word(language, program, word)
    if language.source.endswith(".java"):
        source = re.sub(
            r"^public class", "class", source, flags=re.M
        )  # the file has one name, classes have many
    support = dict(language.support())
    if "org.javatuples" in source:
        support |= tuples()
    main = java_main(source)
    steps = [
        [part.format(main=main) if "{main}" in part else part for part in step] for step in language.steps
    ]
    everything = {language.source: source, **support, **(files or {})}
    return judge_command(sandbox, steps, everything, limits, word)[0]
