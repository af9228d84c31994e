"""The rules of ARCHITECTURE.md, held: who imports whom, what is never used, what is never written down.

Read from the syntax trees of the real modules, and from real processes where a tree could be fooled.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffcoder_lsp import engine_process

ROOT = Path(__file__).resolve().parents[1]
OURS = ("diffcoder_lsp", "model", "training", "evaluation", "benchmarks")

# Which of our modules a folder may import besides its own.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "model": (),
    "diffcoder_lsp": ("model.schema", "model.store", "model.registry", "model.ignoring", "model.secrets"),
    "training": ("model",),
    "evaluation": ("model",),
    "benchmarks": OURS,
}
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "gguf",
    "numpy",
    "scipy",
)

UNPICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
RUNS_TEXT = ("eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "yaml.load")
# file -> what it may do. The sandbox's purpose is to run a benchmark's programs; LiveCodeBench's data holds pickles,
# read by an unpickler that can build a string and nothing else.
ALLOWED: dict[str, tuple[str, ...]] = {
    "evaluation/jail.py": ("compile", "exec"),
    "evaluation/judge.py": ("compile", "exec"),
    "evaluation/livecodebench.py": ("import pickle",),
}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every module named in an import, at any depth, absolute; `from a import b` gives `a` and `a.b`."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*parents, *([node.module] if node.module else [])])
                yield base, node.lineno
                for alias in node.names:
                    yield f"{base}.{alias.name}".lstrip("."), node.lineno


def parsed(folder: str) -> list[Module]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text("utf-8"), str(path))))
    return found


MODULES = {module.name: module for folder in OURS for module in parsed(folder)}


def under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def breaches(module: Module) -> list[str]:
    """The imports of ours that the folder of `module` may not make."""
    folder = module.name.partition(".")[0]
    allowed = (folder, *MAY_IMPORT[folder])
    return [
        f"{module.path}:{line} imports {name}"
        for name, line in module.imports()
        # `from model import schema` names `model` too; that is judged by what it takes from there.
        if under(name, OURS)
        and not under(name, allowed)
        and not any(root.startswith(name + ".") for root in allowed)
    ]


def test_a_folder_imports_only_what_it_may() -> None:
    assert [breach for module in MODULES.values() for breach in breaches(module)] == []


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("diffcoder_lsp.a", "import model.decoder", 1),
        ("diffcoder_lsp.a", "def f():\n    from model import sampler", 1),
        ("diffcoder_lsp.a", "from model.schema import Draft\nfrom model import store", 0),
        ("model.a", "from diffcoder_lsp.gaps import Gap", 2),
        ("model.a", "from . import masks\nfrom .. import training", 1),
        ("training.a", "from model.decoder import Decoder\nimport evaluation", 1),
    ],
)
def test_the_rule_would_be_seen_broken(name: str, source: str, count: int) -> None:
    assert len(breaches(Module(name, Path(f"{name.replace('.', '/')}.py"), ast.parse(source)))) == count


def test_the_editor_side_names_no_heavy_library_even_indirectly() -> None:
    """Follows our own imports from every module of diffcoder_lsp, wherever in the file they stand."""
    todo = [name for name in MODULES if under(name, ("diffcoder_lsp",))]
    seen: set[str] = set()
    heavy: list[str] = []
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported, line in MODULES[name].imports():
            if under(imported, HEAVY):
                heavy.append(f"{name}:{line} imports {imported}")
            elif imported in MODULES:
                todo.append(imported)
    assert heavy == []


def test_a_process_of_the_editor_side_loads_no_heavy_library() -> None:
    names = [name for name in MODULES if under(name, ("diffcoder_lsp",))]
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & set(HEAVY) == set()


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def dangers(module: Module) -> list[tuple[str, int]]:
    """What could run code that came as data: unpicklers, text run as code, remote code, shells."""
    found = [(f"import {name}", line) for name, line in module.imports() if under(name, UNPICKLERS)]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called in RUNS_TEXT or called in (
            "torch.load",
            "os.system",
            "os.popen",
            "yaml.load",
            "yaml.unsafe_load",
        ):
            found.append((called, node.lineno))
        if called.endswith(("numpy.load", "np.load")) and any(
            key.arg == "allow_pickle" for key in node.keywords
        ):
            found.append(("allow_pickle", node.lineno))
        for keyword in node.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("trust_remote_code", "shell") and not off:
                found.append((keyword.arg, node.lineno))
    return found


def test_nothing_that_came_as_data_is_run() -> None:
    assert [
        f"{module.path}:{line} {what}"
        for module in MODULES.values()
        for what, line in dangers(module)
        if what not in ALLOWED.get(module.path.relative_to(ROOT).as_posix(), ())
    ] == []


def test_every_exception_is_still_needed() -> None:
    by_path = {module.path.relative_to(ROOT).as_posix(): module for module in MODULES.values()}
    assert [
        f"{path} {what}"
        for path, entry in ALLOWED.items()
        for what in entry
        if path not in by_path or what not in {found for found, _ in dangers(by_path[path])}
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "f(trust_remote_code=True)",
        "subprocess.run('ls', shell=flag)",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_a_danger_would_be_seen(source: str) -> None:
    assert dangers(Module("model.a", Path("model/a.py"), ast.parse(source)))


def test_no_danger_is_seen_where_there_is_none() -> None:
    harmless = "import re\nre.compile('x')\nnet.eval()\nrun(x, shell=False)"
    assert dangers(Module("model.a", Path("model/a.py"), ast.parse(harmless))) == []


# SHA-256 of the hosts of package registries, and of a made-up one: this file names none of them, either.
HOSTS = {
    "a4aa2ac280bb8d1a0ce7a1be5a7bfb10292b49fe9435ad5cff19f421f3c70e41",
    "8b5bb5eb9d758455b8635855cf8aaf05b68775e3f83f0291e800ef338fb9783c",
    "8743857e3ea00fd1c64bbc68b8af241954ad2c285e7a60340eec7ea5dcb200db",
    "03e390c8d8a6f2cf7bd2459306b376972ea6d6d28453d4a52dcd6c6c06fc9091",
    "e680c440a2e92079ab1bf7a927e8d3920f1bcd173c0487e28e020110b2e59efc",
    "3ca29e55be4befa48f875d24c27f9bed32fe06588819ed6264084b6670a1ebb0",
    "5fbe7dd886f70c574f315951c8473931cd6230f0ab7cc01948c9247c07621daa",
}
LONGEST_HOST = 40
PLACES = [re.escape(f"/{folder}/") + r"(?=[\w.-])" for folder in ("work", "root", "tmp", "opt")] + [
    r"/home/\w+/"
]
HOSTILE = "tests/evaluation/hostile/"  # programs that name the places they try to get to
UNWANTED = re.compile("|".join(rf"(?<![\w.~*}}<>]){place}" for place in PLACES))


def unwanted(text: str) -> list[str]:
    """The places and hosts that a text names."""
    found = [match.group() for match in UNWANTED.finditer(text)]
    for ending in re.finditer(r"\.(?:org|com)", text):
        whole = text[max(0, ending.end() - LONGEST_HOST) : ending.end()]
        ends = (whole[start:] for start in range(len(whole)))  # wherever the host begins
        found += [end for end in ends if hashlib.sha256(end.encode()).hexdigest() in HOSTS]
    return found


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if b"\0" not in data[:8192]:
                yield name, data.decode("utf-8", "replace")


def test_no_registry_host_and_no_path_of_a_machine_is_written_down() -> None:
    assert [
        f"{name}:{number} {found}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        for found in unwanted(line)
        if not name.startswith(HOSTILE)
    ] == []


def test_an_unwanted_name_would_be_seen() -> None:
    assert unwanted("index-url = https://files.index.example" + ".org/simple") == ["index.example" + ".org"]
    assert unwanted("open('" + "/" + "tmp" + "/x')")
    assert not unwanted("docs/work/notes and ~/.cache/opt/x, index.example" + ".com")


def test_the_distribution_installs_exactly_our_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for folder in OURS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == folders
    top_level = importlib.metadata.distribution("diffcoder").read_text("top_level.txt")
    assert top_level is not None
    assert set(top_level.split()) == set(OURS)


def test_every_requirement_has_an_exact_version_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", name, maxsplit=1)[0]).lower()

    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {normal(line) for line in lines if re.fullmatch(r"[\w.-]+==[\w.!+-]+", line)}
    assert [line for line in lines if line and not line.startswith("#") and normal(line) not in pinned] == []
    assert {normal(each) for each in wanted} - pinned == {"pip"}


@pytest.fixture
def hostile_workspace(tmp_path: Path) -> Path:
    """A user's project whose folders are named like ours, and say so when they are run."""
    for name in OURS:
        if name != "diffcoder_lsp":  # that name is ours alone
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(
                "import sys\nsys.exit('the workspace was imported')\n"
            )
    (tmp_path / "msgspec.py").write_text("import sys\nsys.exit('the workspace was imported')\n")
    return tmp_path


COMMAND = [str(Path(sys.executable).with_name("diffcoder")), "model", "list"]
SERVICE = [sys.executable, "-P", "-m", "model.service", "--help"]


@pytest.mark.parametrize("command", [COMMAND, SERVICE], ids=["command", "engine"])
def test_a_workspace_with_folders_named_like_ours_never_shadows_them(
    hostile_workspace: Path, command: list[str]
) -> None:
    done = subprocess.run(command, cwd=hostile_workspace, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_workspace_on_pythonpath_shadows_neither_the_command_nor_the_engine_it_starts(
    hostile_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile_workspace / "msgspec.py").unlink()  # a third party's name there is the user's own doing
    for path in (".", str(hostile_workspace), f".{os.pathsep}{hostile_workspace}"):
        monkeypatch.setenv("PYTHONPATH", path)
        done = subprocess.run(COMMAND, cwd=hostile_workspace, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        done = subprocess.run(
            SERVICE,
            cwd=hostile_workspace,
            env=engine_process.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
