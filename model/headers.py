"""Strict readers of the headers of both weight formats, GGUF and safetensors: bytes in, checked tables out.

A model file is untrusted input. Nothing here believes a number in a file before it was compared with the
file's own size: every count, length and offset is bounded first, so no header can make the reader allocate
more than the file holds, loop without end, or point outside the file. What is refused is wider than what
the formats forbid: tensors must lie one after the other without gap or overlap, as every known writer lays
them.

Knows nothing of models, tensor names' meaning, or torch. Formats: ggml's docs/gguf.md; safetensors' README.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from model.schema import DiffcoderError

_HEADER_LIMIT = 1 << 28  # bytes; the largest real GGUF header known is about 12 MB (262k tokens and merges)
_SAFETENSORS_LIMIT = 100_000_000  # bytes; the format's own cap
_KEYS_LIMIT = 4_096
_TENSORS_LIMIT = 65_536
_ARRAY_LIMIT = 1 << 22
_KEY_BYTES = 256
_NAME_BYTES = 64  # the format's own cap on a tensor's name
_TEXT_BYTES = 1 << 20
_DIM_LIMIT = 1 << 40

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _BOOL = 8, 9, 7

# ggml's type number -> (name, weights in a block, bytes of a block), for all that `gguf.quants` can
# dequantise.
GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

SAFETENSORS_TYPES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def corrupt(path: Path, reason: str) -> NoReturn:
    """Refuse a model file, in one sentence that says what is wrong and what to do."""
    raise DiffcoderError(
        "corrupt_model",
        f"{path.name} is not a model file that can be used ({reason}): "
        "fetch it again with `diffcoder model pull`, or choose another file.",
    )


@dataclass(frozen=True)
class Region:
    """Where a tensor lies: `kind` is the format's name of the number type, `shape` row-major (rows first),
    `start` and `size` are bytes from the file's beginning."""

    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


class _Short(Exception):
    """The buffer ends before the header does: read more of the file."""


class _Cursor:
    """Reads little-endian values out of the first part of a file; never past what was read."""

    def __init__(self, path: Path, data: bytes, whole: bool):
        self.path, self.data, self.whole, self.at = path, data, whole, 0

    def take(self, count: int) -> int:
        """Step over `count` bytes; returns where they begin."""
        at, end = self.at, self.at + count
        if end > len(self.data):
            if self.whole:
                corrupt(self.path, "it ends inside its own header")
            raise _Short
        self.at = end
        return at

    def scalar(self, code: str) -> Any:
        size = struct.calcsize(code)
        at = self.take(size)
        if code == "?" and self.data[at] > 1:
            corrupt(self.path, "a yes-or-no value is neither")
        return struct.unpack_from("<" + code, self.data, at)[0]

    def text(self, limit: int, what: str) -> str:
        length = self.scalar("Q")
        if length > limit:
            corrupt(self.path, f"{what} claims {length} bytes")
        at = self.take(length)
        try:
            return self.data[at : self.at].decode("utf-8")
        except UnicodeDecodeError:
            corrupt(self.path, f"{what} is not text")


@dataclass(frozen=True)
class _Array:
    """An array value still in its bytes: read on demand, because a tokenizer's are 300,000 strings long."""

    kind: int
    count: int
    start: int


class GgufHeader:
    """The checked header of a GGUF file (version 2 or 3, little-endian).

    `values` maps keys to scalars and strings, `regions` tensor names to where they lie; `strings(key)` and
    `numbers(key)` read array values. Raises DiffcoderError("corrupt_model") on anything the format forbids.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = file_size(path)
        self.values: dict[str, Any] = {}
        self._arrays: dict[str, _Array] = {}
        self.regions: dict[str, Region] = {}
        self._data = b""
        with open(path, "rb") as file:
            for limit in (1 << 20, 1 << 24, _HEADER_LIMIT):
                self._data += file.read(limit - len(self._data))
                cursor = _Cursor(path, self._data, len(self._data) >= min(self.size, _HEADER_LIMIT))
                try:
                    self._parse(cursor)
                except _Short:
                    continue
                break

    def _parse(self, cursor: _Cursor) -> None:
        path = self.path
        self.values, self._arrays, self.regions = {}, {}, {}
        magic = self._data[cursor.take(4) : cursor.at]
        if magic != b"GGUF":
            corrupt(path, "it does not begin with GGUF")
        version = cursor.scalar("I")
        if version not in (2, 3):
            corrupt(path, f"GGUF version {version} is not 2 or 3")
        tensors, keys = cursor.scalar("Q"), cursor.scalar("Q")
        if not 0 < tensors <= min(_TENSORS_LIMIT, self.size // 33):
            corrupt(path, f"it claims {tensors} tensors")
        if not 0 < keys <= min(_KEYS_LIMIT, self.size // 13):
            corrupt(path, f"it claims {keys} metadata entries")
        for _ in range(keys):
            key = cursor.text(_KEY_BYTES, "a metadata name")
            if not key or key in self.values or key in self._arrays:
                corrupt(path, "a metadata name is empty or comes twice")
            kind = cursor.scalar("I")
            if kind == _ARRAY:
                self._arrays[key] = self._array(cursor, key)
            elif kind == _STRING:
                self.values[key] = cursor.text(_TEXT_BYTES, "a metadata value")
            elif kind in _SCALARS:
                self.values[key] = cursor.scalar(_SCALARS[kind])
            else:
                corrupt(path, f"metadata type {kind} does not exist")
        found = [self._tensor_info(cursor) for _ in range(tensors)]
        if len({name for name, *_ in found}) != len(found):
            corrupt(path, "a tensor's name comes twice")
        self._place(found, cursor.at)

    def _array(self, cursor: _Cursor, key: str) -> _Array:
        kind, count = cursor.scalar("I"), cursor.scalar("Q")
        if count > min(_ARRAY_LIMIT, self.size):
            corrupt(self.path, f"an array claims {count} entries")
        array = _Array(kind, count, cursor.at)
        if kind == _STRING:
            data, at, end = cursor.data, cursor.at, len(cursor.data)
            unpack = struct.Struct("<Q").unpack_from
            for _ in range(count):
                if at + 8 > end:
                    cursor.take(end - cursor.at + 1)  # raises: more bytes are needed, or there are none
                length = unpack(data, at)[0]
                if length > _TEXT_BYTES:
                    corrupt(self.path, f"a string claims {length} bytes")
                at += 8 + length
            cursor.take(at - cursor.at)
        elif kind in _SCALARS:
            cursor.take(count * struct.calcsize(_SCALARS[kind]))
        else:
            corrupt(self.path, f"{key[:40]} holds an array of an unknown kind")
        return array

    def _tensor_info(self, cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
        """Name, type, shape (rows first), bytes, offset from the data's beginning."""
        path = self.path
        name = cursor.text(_NAME_BYTES, "a tensor's name")
        if not name:
            corrupt(path, "a tensor has no name")
        count = cursor.scalar("I")
        if not 1 <= count <= 4:
            corrupt(path, f"a tensor claims {count} dimensions")
        dims = [cursor.scalar("Q") for _ in range(count)]
        kind, offset = cursor.scalar("I"), cursor.scalar("Q")
        if kind not in GGML_TYPES:
            corrupt(path, f"tensor type {kind} is unknown")
        label, block, block_bytes = GGML_TYPES[kind]
        weights = 1
        for dim in dims:
            weights *= dim
            if not 0 < dim < _DIM_LIMIT or weights > _DIM_LIMIT:
                corrupt(path, "a tensor's size is impossible")
        if dims[0] % block:
            corrupt(path, "a tensor's rows do not divide into its blocks")
        return name, label, tuple(reversed(dims)), weights // block * block_bytes, offset

    def _place(self, found: list[tuple[str, str, tuple[int, ...], int, int]], header_end: int) -> None:
        """Check that the tensors tile the rest of the file, in order, each padded to the alignment."""
        alignment = self.values.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
            corrupt(self.path, "its alignment is not a power of two from 8 to 65536")
        start = -(-header_end // alignment) * alignment
        expected = end = 0
        for name, label, shape, size, offset in found:
            if offset != expected:
                corrupt(self.path, "a tensor does not lie where the one before it ends")
            end = offset + size
            expected = -(-end // alignment) * alignment
            self.regions[name] = Region(label, shape, start + offset, size)
        if self.size not in (start + end, start + expected):
            corrupt(self.path, f"its tensors end at byte {start + end} and the file has {self.size}")

    def strings(self, key: str) -> list[str]:
        """The entries of a string array; DiffcoderError when it is absent, of another type, or not text."""
        array = self._arrays.get(key)
        if array is None or array.kind != _STRING:
            corrupt(self.path, f"{key} is missing")
        try:
            return [piece.decode("utf-8") for piece in self._pieces(array)]
        except UnicodeDecodeError:
            corrupt(self.path, f"{key} is not text")

    def _pieces(self, array: _Array) -> Iterator[bytes]:
        at, unpack = array.start, struct.Struct("<Q").unpack_from
        for _ in range(array.count):
            end = at + 8 + unpack(self._data, at)[0]
            yield self._data[at + 8 : end]
            at = end

    def numbers(self, key: str) -> tuple[float, ...]:
        """The entries of an array of numbers; DiffcoderError when it is absent or of another type."""
        array = self._arrays.get(key)
        if array is None or array.kind == _STRING:
            corrupt(self.path, f"{key} is missing")
        return struct.unpack_from(f"<{array.count}{_SCALARS[array.kind]}", self._data, array.start)

    def has_array(self, key: str) -> bool:
        return key in self._arrays


class SafetensorsHeader:
    """The checked header of a safetensors file: `regions` by tensor name, `metadata` (strings).

    Raises DiffcoderError("corrupt_model") on anything the format forbids.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = file_size(path)
        with open(path, "rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(_SAFETENSORS_LIMIT, self.size - 8):
                corrupt(path, f"its header claims {length} bytes")
            raw = file.read(length)
        table = read_json(path, raw)
        metadata = table.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            corrupt(path, "its metadata is not text")
        self.metadata: dict[str, str] = metadata
        if not 0 < len(table) <= _TENSORS_LIMIT:
            corrupt(path, f"it claims {len(table)} tensors")
        self.regions: dict[str, Region] = {}
        end = 0
        for name, region in sorted(
            ((name, self._region(name, entry, 8 + length)) for name, entry in table.items()),
            key=lambda item: (item[1].start, item[1].size),
        ):
            if region.start != 8 + length + end:
                corrupt(path, "its tensors overlap or leave a gap")
            end += region.size
            self.regions[name] = region
        if 8 + length + end != self.size:
            corrupt(path, f"its tensors end at byte {8 + length + end} and the file has {self.size}")

    def _region(self, name: str, entry: object, data_start: int) -> Region:
        path = self.path
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            corrupt(path, "a tensor's entry is malformed")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in SAFETENSORS_TYPES:
            corrupt(path, "a tensor's number type is unknown")
        if not _naturals(shape) or len(shape) > 8 or not _naturals(offsets) or len(offsets) != 2:
            corrupt(path, "a tensor's shape or place is malformed")
        size = SAFETENSORS_TYPES[kind]
        for dim in shape:
            size *= dim
            if size > self.size:
                corrupt(path, "a tensor claims more bytes than the file has")
        if offsets[1] - offsets[0] != size:
            corrupt(path, "a tensor's place does not fit its shape")
        return Region(kind, tuple(shape), data_start + offsets[0], size)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name comes twice")
    return table


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path, raw: bytes) -> dict[str, Any]:
    """A JSON object with no name twice and no NaN; DiffcoderError("corrupt_model") otherwise."""
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        corrupt(path, "it holds malformed JSON")
    if not isinstance(table, dict):
        corrupt(path, "its JSON is not an object")
    return table


def file_size(path: Path) -> int:
    """Bytes of a regular file; DiffcoderError when there is none to read."""
    try:
        with open(path, "rb") as file:
            if not path.is_file():
                corrupt(path, "it is not a plain file")
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise DiffcoderError(
            "model_unreadable", f"{path} cannot be read ({reason}): check the path and its permissions."
        ) from None
