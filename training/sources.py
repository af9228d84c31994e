"""Which folders hold code that may be learnt from: packages with a permissive licence that says so itself.

Four kinds are told apart by what they carry: npm packages (package.json), installed Python distributions
(*.dist-info), unpacked Debian packages (usr/share/doc/*/copyright) and source trees with a licence file. A
package whose licence is not found or not permissive is left out. Reads text only; runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from training.corpus import Source

_PERMISSIVE = re.compile(
    r"(?i)^\(?(0BSD|Apache(-2(\.0)?| 2(\.0)?| Software License.*| License.*)?|BSD(-[234]-Clause| License)?"
    r"|BSL-1\.0|Boost|BlueOak-1\.0\.0|CC0(-1\.0)?|Expat|ISC( License.*)?|MIT(-0| License)?|PSF-2\.0"
    r"|Python Software Foundation.*|The Unlicense.*|Unlicense|Zlib)\)?$"
)
_LICENCE_TEXTS = {
    "Apache-2.0": r"Apache License,?\s+Version 2\.0",
    "MIT": r"Permission is hereby granted, free of charge",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms",
}


def permissive(expression: str) -> bool:
    """Whether a licence expression lets anyone use the code: every part of an AND, at least one of an OR."""
    parts = [part.strip() for part in re.split(r"(?i)\s+and\s+|,", expression) if part.strip()]
    return bool(parts) and all(
        any(_PERMISSIVE.match(choice.strip()) for choice in re.split(r"(?i)\s+or\s+|/", part.strip("()")))
        for part in parts
    )


def discover(folder: Path) -> Iterator[Source]:
    """Every permissively licensed package under `folder`, which is one itself or holds such folders."""
    if (folder / "package.json").is_file() and not (folder / "node_modules").is_dir():
        yield from _source(folder.name, folder, _npm_licence(folder / "package.json"))
    elif list(folder.glob("*.dist-info")):
        for info in sorted(folder.glob("*.dist-info")):
            yield from _distribution(folder, info)
    elif list(folder.glob("usr/share/doc/*/copyright")):
        text = "\n".join(
            path.read_text("utf-8", "replace") for path in folder.glob("usr/share/doc/*/copyright")
        )
        licences = {name.strip() for name in re.findall(r"(?m)^License:[ \t]*(\S.*)$", text)}
        yield from _source(folder.name, folder, " and ".join(sorted(licences)))
    elif files := [path for name in ("LICENSE*", "LICENCE*", "COPYING*") for path in folder.glob(name)]:
        text = files[0].read_text("utf-8", "replace") if files[0].is_file() else ""
        found = [name for name, pattern in _LICENCE_TEXTS.items() if re.search(pattern, text)]
        yield from _source(folder.name, folder, found[0] if found else "")
    else:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            yield from discover(inner)


def _source(name: str, folder: Path, licence: str) -> Iterator[Source]:
    if permissive(licence):
        yield Source(name, folder, licence, many=True)


def _npm_licence(path: Path) -> str:
    try:
        value = json.loads(path.read_text("utf-8")).get("license", "")
    except (ValueError, AttributeError):
        return ""
    return str(value.get("type", "")) if isinstance(value, dict) else str(value)


def _distribution(site_packages: Path, info: Path) -> Iterator[Source]:
    try:
        fields = HeaderParser().parsestr((info / "METADATA").read_text("utf-8", "replace"))
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
    record = info / "RECORD"
    names = {
        line.split("/", 1)[0] for line in record.read_text("utf-8", "replace").split("\n") if "/" in line
    }
    for name in sorted(names):
        if re.fullmatch(r"\w+", name) and (site_packages / name).is_dir():
            yield from _source(name, site_packages / name, licence)
