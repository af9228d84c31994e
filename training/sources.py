"""Which folders hold code that may be learnt from: packages with a permissive licence that says so itself.

Four kinds are told apart by what they carry: npm packages (package.json), installed Python distributions
(*.dist-info), unpacked Debian packages (usr/share/doc/*/copyright) and source trees with licence files. A
package whose licence is not found or not permissive is left out, and so is a tree one of whose licence files
names other terms: whether both hold or either, no rule can tell. Within a package, folders and files that say of
themselves that their licence is not permissive are left out. Reads text only; runs nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

_PERMISSIVE = re.compile(
    r"(?i)^\(?(0BSD|Apache(-2(\.0)?| 2(\.0)?| Software License.*| License.*)?|BSD(-[234]-Clause| License)?"
    r"|BSL-1\.0|Boost|BlueOak-1\.0\.0|CC0(-1\.0)?|Expat|ISC( License.*)?|MIT(-0| License)?|PSF-2\.0"
    r"|Python Software Foundation.*|The Unlicense.*|Unlicense|Zlib)\)?$"
)
_LICENCE_TEXTS = {
    "Apache-2.0": r"Apache License,?\s+Version 2\.0",
    "MIT": r"Permission is hereby granted, free of charge",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms",
    "BSL-1.0": r"Boost Software License",
    "Unlicense": r"free and unencumbered software released into the public domain",
}
_OTHER_TERMS = re.compile(
    r"(?i)\bGNU\s+(Lesser\s+|Library\s+|Affero\s+)?General\s+Public\s+License|Mozilla\s+Public\s+License"
    r"|Commons\s+Clause|Business\s+Source\s+License|Server\s+Side\s+Public\s+License|Elastic\s+License|Non-?Commercial"
    r"|Eclipse\s+Public\s+License|Common\s+Development\s+and\s+Distribution\s+License"
)
_ID = r"(?:\([ \t]*)?[\w.+-]+(?:[ \t]*\))?"
_SPDX = re.compile(rf"(?i)SPDX-License-Identifier:[ \t]*({_ID}(?:[ \t]+(?:AND|OR|WITH)[ \t]+{_ID})*)")
_FIRST_LINES = 30  # of a file, where its licence stands


@dataclass(frozen=True)
class Source:
    """A folder of code under one licence. `name` goes into the record in place of the machine's path. One of many
    (`many`) is a package: it may be held out as a whole, and parts of it may say that they have another licence."""

    name: str
    folder: Path
    licence: str
    many: bool = False


def permissive(expression: str) -> bool:
    """Whether a licence expression lets anyone use the code: every part of an AND, at least one of an OR."""
    parts = [part.strip() for part in re.split(r"(?i)\s+and\s+|,", expression) if part.strip()]
    return bool(parts) and all(
        any(_PERMISSIVE.match(choice.strip()) for choice in re.split(r"(?i)\s+or\s+|/", part.strip("()")))
        for part in parts
    )


def other_terms(source: Source) -> Callable[[Path], str | None]:
    """Why files in a folder of a source may not be learnt from: the folder or one above it, below the source's own, holds
    licence files that are not permissive. Never of a team's own code."""

    @functools.cache
    def reason(folder: Path) -> str | None:
        if not source.many or folder == source.folder:
            return None
        files = _licence_files(folder)
        if files and not permissive(_licence_of(files)):
            return "in a folder whose own licence is not permissive"
        return reason(folder.parent)

    return reason


def names_other_terms(source: Source, text: str) -> str | None:
    """Why a file may not be learnt from: its first lines name a licence that is not permissive. Never of a team's own."""
    if source.many:
        named = _SPDX.findall("\n".join(text.split("\n", _FIRST_LINES)[:_FIRST_LINES]))
        if not all(map(permissive, named)):
            return "names a licence of its own that is not permissive"
    return None


def discover(folder: Path, refused: dict[str, str]) -> Iterator[Source]:
    """Every permissively licensed package under `folder`, which is one itself or holds such folders. `refused` takes the
    names of the others, with what they say of their licence."""
    npm = folder / "package.json"
    if npm.is_file() and not (folder / "node_modules").is_dir():
        yield from _source(
            folder.name, folder, _npm_licence(npm) or _licence_of(_licence_files(folder)), refused
        )
    elif list(folder.glob("*.dist-info")):
        for info in sorted(folder.glob("*.dist-info")):
            yield from _distribution(folder, info, refused)
    elif list(folder.glob("usr/share/doc/*/copyright")):
        text = "\n".join(
            path.read_text("utf-8", "replace") for path in folder.glob("usr/share/doc/*/copyright")
        )
        licences = {name.strip() for name in re.findall(r"(?m)^License:[ \t]*(\S.*)$", text)}
        yield from _source(folder.name, folder, " and ".join(sorted(licences)), refused)
    elif files := _licence_files(folder):
        yield from _source(folder.name, folder, _licence_of(files), refused)
    else:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            yield from discover(inner, refused)


def _source(name: str, folder: Path, licence: str, refused: dict[str, str]) -> Iterator[Source]:
    if permissive(licence):
        yield Source(name, folder, licence, many=True)
    else:
        refused[name] = licence


def _licence_files(folder: Path) -> list[Path]:
    names = ("LICENSE*", "LICENCE*", "COPYING*")
    return sorted(path for name in names for path in folder.glob(name) if path.is_file())


def _licence_of(files: list[Path]) -> str:
    """What licence files say together, as an expression; other terms than permissive ones by their first words."""
    texts = [_text(path) for path in files]
    if other := next(filter(None, map(_OTHER_TERMS.search, texts)), None):
        return " ".join(other[0].split())
    found = [[name for name, text in _LICENCE_TEXTS.items() if re.search(text, one)] for one in texts]
    return " and ".join(sorted({names[0] for names in found if names}))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _npm_licence(path: Path) -> str:
    try:
        value = json.loads(path.read_text("utf-8")).get("license", "")
    except (ValueError, AttributeError):
        return ""
    return str(value.get("type", "")) if isinstance(value, dict) else str(value)


def _distribution(site_packages: Path, info: Path, refused: dict[str, str]) -> Iterator[Source]:
    try:
        fields = HeaderParser().parsestr((info / "METADATA").read_text("utf-8", "replace"))
        record = (info / "RECORD").read_text("utf-8", "replace")
    except OSError:
        return
    classifiers = [
        value.rsplit("::", 1)[1].strip()
        for value in fields.get_all("Classifier", [])
        if value.startswith("License ::")
    ]
    licence = (
        fields["License-Expression"] or " and ".join(classifiers) or (fields["License"] or "").split("\n")[0]
    )
    names = {line.split("/", 1)[0] for line in record.split("\n") if "/" in line}
    for name in sorted(names):
        if re.fullmatch(r"\w+", name) and (site_packages / name).is_dir():
            yield from _source(name, site_packages / name, licence, refused)
