"""Ignore files by git's rules: whatever git leaves out, neither the corpus nor a prompt sees, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from diffcoder_lsp.context import Ignored
from model.ignoring import Rules, everywhere
from training import ignoring

FILES = [
    *("a.py", "b.py", "A.py", "a1.py", "plain.py", "x y.py", "trail ", "tab\t", "#h.py", "!n.py", "[x].py"),
    *(
        "a*b.py",
        "a]b.py",
        "a-b.py",
        "]x.py",
        "-.py",
        "\\x.py",
        "é.py",
        "voilà",
        "d/a.py",
        "d/plain.py",
        "d/keep/z.py",
    ),
    *("d/e/a.py", "d/e/plain.py", "d/e/f/g.py", "build/x.py", "d/build/x.py", "foo/bar.py", "foo/keep.py"),
    *("foo/q/z.py", "foo bar/a.py"),
]
PATTERNS = [
    *(
        "plain.py",
        "/plain.py",
        "d/plain.py",
        "**/plain.py",
        "d/**/plain.py",
        "*/plain.py",
        "plain.py/",
        "d//plain.py",
    ),
    *(
        "d/**",
        "d/**/",
        "d/*",
        "d/*/",
        "d/**/e",
        "**/e/**",
        "**/build",
        "build/",
        "/build",
        "foo**",
        "foo/**/z.py",
    ),
    *("*", "*/", "**", "**/", "/*", "/**", "*/**", "/", "#a.py", "", "e", "e/", "/e", "e/f", "a.py/**"),
    *("foo/*\n!foo/keep.py", "foo/\n!foo/keep.py", "*.py\n!a.py", "!plain.py\nplain.py"),
    *("*\n!*/\n!*.py\n!.gitignore", "*\n!d/\n!a.py", "*\n!/d/\n!/d/**/\n!*.py"),
    *("/*\n!/foo\n/foo/*\n!/foo/bar.py", "/*\n!/d/\n/d/*\n!/d/e/", "b*\n!build/\nx.py"),
    *(
        "[a-b].py",
        "[!a].py",
        "[^a].py",
        "[z-a].py",
        "*.p[y]",
        "plain[.]py",
        "[+-9]*",
        "d[!x]a.py",
        "[[]x].py",
    ),
    *(
        "[[:lower:]].py",
        "[[:alpha:]]*.py",
        "a[[:digit:]].py",
        "[![:alnum:]]*",
        "[[:punct:][:space:]]*",
        "[[:no:]]*",
    ),
    *(
        "[]x]*",
        "[!]a]*",
        "[\\]x]*",
        "[\\\\]*",
        "[a\\-z]*",
        "[--0]*",
        "a[]-]b.py",
        "[",
        "[]",
        "[!]",
        "[[:alpha:]",
    ),
    *("\\#h.py", "\\!n.py", "a\\*b.py", "\\[x\\].py", "pla\\in.py", "d\\/a.py", "voilà", "?.py", "[é].py"),
    *("trail ", "trail\\ ", "trail\\  ", "plain.py   ", "plain.py\t", "tab\t", "foo bar/ ", "plain.py \\ "),
    *("!\nplain.py", "plain.py\nodd\\", "[z-a]\n!\nplain.py", "\ufeffplain.py", "#\ufeff\nplain.py"),
]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository of FILES that nobody's settings reach."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = tmp_path / "repository"
    for name in FILES:
        put(root / name)
    git(root, "init", "-q")
    (root / ".git/info/exclude").unlink(missing_ok=True)
    return root


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout


def put(path: Path, text: str | bytes = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def left_in(folder: Path) -> set[str]:
    """The files of a folder that are not ignored, for whom it is the same: git, the corpus and the editor's side."""
    everywhere.cache_clear()
    listed = git(folder, "ls-files", "-z", "--others", "--cached", "--exclude-standard")
    by_git = set(filter(None, listed.split("\0")))
    ignored = Ignored()
    there = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert {path.relative_to(folder).as_posix() for path in ignoring.files(folder)} - {".git"} == by_git
    assert {path.relative_to(folder).as_posix() for path in there if str(path) not in ignored} == by_git
    return by_git


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no end", "newlines", "carriage returns"])
def test_patterns_ignore_what_they_ignore_for_git(repository, end):
    for patterns in PATTERNS:
        put(repository / ".gitignore", patterns.replace("\n", end or "\n") + end)
        left_in(repository)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("*.py", "!e/"),  # a folder that is let in lets in nothing of what is in it
        ("*.py", "!e"),
        ("*.py", "!e/**"),
        ("e", "!e"),
        ("d/e", "!a.py"),
        ("/d/*\n!/d/e/", "*.py\n!g.py"),
        ("*\n!*/\n!*.py\n!.gitignore", "keep"),
    ],
)
def test_the_deepest_ignore_file_that_says_anything_decides(repository, above, below):
    put(repository / ".gitignore", above)
    put(repository / "d/.gitignore", below)
    left_in(repository)


def test_what_a_repository_excludes_counts_less_than_its_ignore_files(repository):
    put(repository / ".git/info/exclude", b"\xef\xbb\xbfplain.py\nb.py\n/d/e/\n")
    put(repository / ".gitignore", "!b.py\n")
    assert {"b.py", "d/a.py", "foo/bar.py"} <= left_in(repository)
    assert not {"plain.py", "d/plain.py", "d/e/a.py"} & left_in(repository)


def test_worktrees_and_submodules_have_the_excludes_of_their_git_folder(repository, tmp_path):
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    git(repository, *identity, "commit", "-q", "--allow-empty", "-m", "first")
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    git(repository, "init", "-q", "--separate-git-dir", str(tmp_path / "elsewhere"), str(tmp_path / "module"))
    put(repository / ".git/info/exclude", "plain.py\n")
    put(tmp_path / "elsewhere/info/exclude", "plain.py\n")
    for folder in (tmp_path / "tree", tmp_path / "module"):
        assert (folder / ".git").is_file()
        for name in ("a.py", "plain.py", "d/plain.py"):
            put(folder / name)
        assert left_in(folder) == {"a.py"}


def test_what_the_users_git_ignores_everywhere_counts_least(repository, tmp_path, monkeypatch):
    put(tmp_path / "git/ignore", "*.py\n/d/\n")  # where git looks when nothing is set
    put(repository / ".git/info/exclude", "!a.py\n")
    put(repository / "foo/.gitignore", "!x.py\n")
    left = left_in(repository)
    assert "a.py" in left
    assert "plain.py" not in left
    assert not any(name.startswith("d/") for name in left)
    put(tmp_path / ".gitconfig", "[include]\n\tpath = more\n")
    put(tmp_path / "more", '[core]\n\texcludesFile = "~/mine ü"\n')
    assert "plain.py" in left_in(repository)  # set, and not there
    put(tmp_path / "mine ü", "plain.py\n")
    left = left_in(repository)
    assert "plain.py" not in left
    assert "d/a.py" in left
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    everywhere.cache_clear()
    assert everywhere() == tmp_path / "mine ü"
    monkeypatch.setenv("PATH", str(tmp_path))
    everywhere.cache_clear()
    assert everywhere() == tmp_path / "git/ignore"  # no git: where it would look
    everywhere.cache_clear()


def test_a_git_file_that_names_no_folder_excludes_nothing(tmp_path):
    for content in (b"", b"gitdir: nowhere", b"gitdir: a\0b", b"\xff\xfe"):
        put(tmp_path / ".git", content)
        put(tmp_path / "a.py")
        assert tmp_path / "a.py" in set(ignoring.files(tmp_path))
        assert str(tmp_path / "a.py") not in Ignored()


def test_a_folder_of_a_repository_is_under_the_rules_above_it(repository):
    put(repository / ".gitignore", "plain.py\n/d/e/f/\n/foo/\n")
    put(repository / "d/.diffcoderignore", "keep\n")
    found = {path.relative_to(repository).as_posix() for path in ignoring.files(repository / "d/e")}
    assert found == {"d/e/a.py"}
    assert list(ignoring.files(repository / "foo/q"))  # ignored, but named, and so meant
    assert not {"d/e/plain.py", "d/keep/z.py"} & {
        name for name in FILES if str(repository / name) not in Ignored([repository / "d"])
    }


def test_a_package_within_an_ignored_folder_is_under_its_own_rules_once_it_is_named(repository):
    put(repository / ".gitignore", "node_modules\n*.js\n")
    put(repository / ".venv/.gitignore", "*\n")
    for package in ("node_modules/one", ".venv/site-packages/two", "packages/three"):
        for name in ("a.js", "a.py", "own.py"):
            put(repository / package / name)
        put(repository / package / ".gitignore", "own.py\n.gitignore\n")
        found = {path.name for path in ignoring.files(repository / package)}
        assert found == ({"a.py"} if package == "packages/three" else {"a.js", "a.py"})


def test_the_weightiest_of_a_folders_texts_comes_last():
    rules = Rules([b"a\nb", b"!a\n/c/"])
    assert [rules.verdict(name, False) for name in ("a", "b", "c", "a/d")] == [False, True, None, None]
    assert rules.verdict("c", True)
    assert not Rules([b"", b"# nothing\n\n"])
