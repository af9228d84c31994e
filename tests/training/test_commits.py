"""Edits out of real git repositories, the awkward ones too; nothing that a repository's settings name is ever run."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from training import commits
from training.edits import Edit

Change = Callable[[str], str]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def module(n: int) -> str:
    """Code of some thirty lines that no other file has."""
    return "".join(
        f"def part_{n}_{k}(value_{n * k}):\n    other = load_{n + k}(value_{n * k})\n    return other + {n}\n\n\n"
        for k in range(6)
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "a repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def put(folder: Path, path: str, text: str, message: str) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def found(
    folder: Path, contaminated: Callable[[str], bool] = lambda text: False
) -> tuple[list[Edit], Counter[str]]:
    left_out: Counter[str] = Counter()
    return list(commits.edits(folder, lambda path: True, contaminated, left_out)), left_out


def applied(edit: Edit) -> str:
    """The file with the edit in it."""
    lines = edit.before.split("\n")
    lines[edit.start - 1 : edit.end] = edit.replacement.removesuffix("\n").split("\n")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("plain.py", lambda text: text.replace("+ 3", "+ 4", 1)),
        ("with space/a file.py", lambda text: text.replace("+ 3", "+ 4", 1)),
        ("ünï.py", lambda text: text.replace("+ 3", "+ 4", 1)),
        ("windows.py", lambda text: text.replace("+ 3", "+ 4", 1)),
        ("last.py", lambda text: text + "LAST = 1\nmore = 2"),  # no newline at the end
        ("odd.py", lambda text: text.replace("+ 3", "+ '\x01\f\u2028'", 1)),
        ("blank.py", lambda text: text.replace("\n\n\ndef", "\n\nX = 1\n\n\ndef", 1)),
    ],
)
@pytest.mark.parametrize("setting", ["", "diff.noprefix", "diff.mnemonicPrefix", "diff.suppressBlankEmpty"])
def test_an_edit_applied_to_what_was_before_is_what_came_after(
    repository: Path, path: str, change: Change, setting: str
) -> None:
    before = module(3)
    after = change(before)
    ends = "\r\n" if path == "windows.py" else "\n"
    put(repository, path, before.replace("\n", ends), "Start")
    put(repository, path, after.replace("\n", ends), "Change what the part gives back")
    if setting:
        git(repository, "config", setting, "true")
    edits, left_out = found(repository)
    assert [(edit.path, edit.instruction) for edit in edits] == [(path, "Change what the part gives back")], (
        left_out
    )
    assert applied(edits[0]).rstrip("\n") == after.rstrip("\n")


def test_nothing_that_the_settings_name_is_run(repository: Path, tmp_path: Path) -> None:
    mark, evil = tmp_path / "mark", tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    evil.chmod(0o755)
    put(repository, "a.py", module(1), "Start")
    put(repository, "a.py", module(1).replace("+ 1", "+ 2"), "Change what the part gives back")
    # A signature makes git ask gpg, where the settings say so.
    tree, parent = git(repository, "rev-parse", "HEAD^{tree}"), git(repository, "rev-parse", "HEAD~1")
    signed = (
        f"tree {tree}\nparent {parent}\nauthor A <a@example.org> 1700000000 +0000\n"
        "committer A <a@example.org> 1700000000 +0000\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n"
        " -----END PGP SIGNATURE-----\n\nChange what the part gives back\n"
    )
    (tmp_path / "commit").write_text(signed)
    git(
        repository,
        "reset",
        "-q",
        git(repository, "hash-object", "-t", "commit", "-w", str(tmp_path / "commit")),
    )
    settings = {
        "log.showSignature": "true",
        "gpg.program": str(evil),
        "core.pager": str(evil),
        "pager.log": "true",
        "core.fsmonitor": str(evil),
        "diff.external": str(evil),
        "diff.evil.textconv": str(evil),
        "diff.evil.command": str(evil),
        "filter.evil.smudge": str(evil),
        "core.sshCommand": str(evil),
        "extensions.partialClone": "origin",
        "remote.origin.url": "ssh://nowhere.invalid/x",
        "remote.origin.promisor": "true",
    }
    for name, value in settings.items():
        git(repository, "config", name, value)
    (repository / ".gitattributes").write_text("*.py diff=evil filter=evil\n")
    assert len(found(repository)[0]) == 1
    blob = git(repository, "rev-parse", "HEAD~1:a.py")  # gone, as in a partial clone
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    found(repository)
    assert not mark.exists()


def test_secrets_and_benchmarks_stay_out_of_prompt_answer_and_instruction(repository: Path) -> None:
    key = "AKIAABCDEFGHIJKLMNOP"
    put(repository, "a.py", module(1), "Start")
    put(repository, "a.py", f"KEY = '{key}'\n" + module(1), "Give the part a key")
    put(
        repository,
        "a.py",
        f"KEY = '{key}'\n" + module(1).replace("+ 1", "+ 2"),
        "Change what the part gives back",
    )
    put(repository, "a.py", module(1).replace("+ 1", "+ 2"), "Take the key away again")
    put(repository, "a.py", module(1).replace("+ 1", "+ 3"), f"Use {key} for the upload")
    put(repository, "a.py", module(1).replace("+ 1", "+ 4"), "Change it and say no word")
    edits, left_out = found(repository)
    assert {edit.instruction for edit in edits} == {"Change it and say no word"}
    assert left_out["hunk: a secret"] == 3
    assert not found(repository, lambda text: "+ 4" in text)[0]


def test_merges_renames_new_and_binary_files_teach_nothing(repository: Path) -> None:
    put(repository, "a.py", module(1), "Start")
    git(repository, "checkout", "-qb", "side")
    put(repository, "b.py", module(2), "Add a module for the side")
    git(repository, "checkout", "-q", "main")
    put(repository, "a.py", module(1).replace("+ 1", "+ 2"), "Change what the part gives back")
    git(repository, "merge", "-q", "--no-edit", "side")
    git(repository, "mv", "a.py", "c.py")
    git(repository, "commit", "-qm", "Rename the first of the modules")
    put(repository, "d.py", "\0\1\2" * 300, "Add some bytes that are none")
    put(repository, "d.py", "\0\1\3" * 300, "Change the bytes that are none")
    git(repository, "commit", "-qm", "Say something and do nothing", "--allow-empty")
    assert [edit.path for edit in found(repository)[0]] == ["a.py"]


def test_a_change_of_a_file_whose_name_git_quotes_is_nobody_elses(repository: Path) -> None:
    for path in ("a.py", 'b"c.py'):
        put(repository, path, module(1), "Start")
    (repository / "a.py").write_text(module(1).replace("part_1_0", "first_part"))
    put(repository, 'b"c.py', module(1).replace("part_1_5", "last_part"), "Give the parts better names")
    edits, _ = found(repository)
    assert [(edit.path, "first_part" in edit.replacement) for edit in edits] == [("a.py", True)]


def test_a_shallow_clone_a_detached_head_a_folder_inside_and_a_submodule(
    repository: Path, tmp_path: Path
) -> None:
    put(repository, "inner/a.py", module(1), "Start")
    for n in range(2, 5):
        put(
            repository,
            "inner/a.py",
            module(1).replace("+ 1", f"+ {n}"),
            f"Change what the part gives back, {n}",
        )
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "3", f"file://{repository}", str(shallow))
    assert len(found(shallow)[0]) == 2  # the oldest has nothing before it
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    assert [edit.path for edit in found(repository / "inner")[0]] == ["a.py", "a.py"]
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    put(outer, "o.py", module(7), "Start")
    git(outer, "submodule", "add", "-q", f"file://{repository}", "sub")
    git(outer, "commit", "-qm", "Take the repository in below")
    put(outer, "o.py", module(7).replace("+ 7", "+ 8"), "Change what the part gives back")
    assert [edit.path for edit in found(outer)[0]] == ["o.py"]


@pytest.mark.parametrize("name", [b"caf\xe9", b" sub ", b" \xff\t", b"a 'b\" c"])
def test_a_folder_inside_is_read_whatever_bytes_its_name_has(repository: Path, name: bytes) -> None:
    inner = repository / os.fsdecode(name)
    for n in range(1, 4):
        put(inner, "a.py", module(1).replace("+ 1", f"+ {n}"), f"Change what the part gives back, {n}")
    assert [(edit.path, "+ 3" in edit.replacement) for edit in found(inner)[0]] == [
        ("a.py", True),
        ("a.py", False),
    ]


def test_a_folder_with_a_line_end_in_its_name_is_never_taken_for_two(repository: Path) -> None:
    inner = repository / "x\nHEAD:sub"
    put(repository, "sub/a.py", module(2), "Start")
    for n in range(1, 4):
        put(inner, "a.py", module(1).replace("+ 1", f"+ {n}"), f"Change what the part gives back, {n}")
    edits, left_out = found(inner)
    assert (edits, left_out) == ([], {"hunk: generated, binary or gone": 2})


@pytest.mark.parametrize("unborn", [False, True])
def test_a_folder_without_history_is_said_in_a_sentence(tmp_path: Path, unborn: bool) -> None:
    if unborn:
        git(tmp_path, "init", "-q")
    assert commits.obstacle(tmp_path) == commits.NO_HISTORY
    with pytest.raises(commits.DiffcoderError, match="no git history"):
        found(tmp_path)


def test_a_folder_that_is_not_there_is_said_in_a_sentence_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(commits.DiffcoderError, match="none is no folder"):
        found(tmp_path / "none")


@pytest.fixture
def of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories seem to git to be another user's, and no settings say that they are safe."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)


def test_why_git_refuses_is_said_in_its_own_words(
    repository: Path, of_somebody_else: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGUAGE", "de")
    with pytest.raises(commits.DiffcoderError, match="detected dubious ownership") as error:
        found(repository)
    assert "\n" not in error.value.message
    # What the user's environment calls safe is read.
    for name, value in {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "*"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert commits.obstacle(repository) == commits.NO_HISTORY


def test_a_broken_link_to_a_repository_and_a_missing_git_are_no_folder_without_history(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".git").write_text("gitdir: nowhere\n")
    assert "not a git repository: " in (commits.obstacle(tmp_path / "linked") or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(commits.DiffcoderError, match=r"git cannot be run .*: install it"):
        found(repository)


def test_the_repository_that_is_named_is_read_below_a_hook_of_another(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 3):
        put(repository, "a.py", module(1).replace("+ 1", f"+ {n}"), "Change what the part gives back")
    plain, other = tmp_path / "plain", tmp_path / "other"
    for folder in (plain, other):
        folder.mkdir()
    git(other, "init", "-q")
    put(other, "o.py", module(7), "Start")
    names = set(git(other, "rev-parse", "--local-env-vars").split()) - {
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_PARAMETERS",
    }
    for name in {*names, "GIT_NAMESPACE"}:
        monkeypatch.setenv(name, str(other / ".git"))
    assert [edit.path for edit in found(repository)[0]] == ["a.py"]
    with pytest.raises(commits.DiffcoderError, match="no git history"):
        found(plain)
    assert not any(name in commits._environment() for name in names)
