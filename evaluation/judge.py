"""Tests on one side, code under test on the other: two locked rooms that exchange plain data only.

Both ends run inside `evaluation.jail`, standard library only. `serve` holds the untrusted program and answers
calls; `judge` holds the tests and calls. The program never sees the tests, the expected values or the
verdict's channel, and what comes back from it is decoded into built-in data, so it can neither change a
check nor return an object that claims to equal everything. An object that is no data stays over there;
`Remote` stands for it.
"""

import builtins
import collections
import collections.abc
import importlib
import itertools
import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

MOST_BYTES = 1 << 26
EVERYTHING = "*"  # as the list of names: bind all that the program defines
STANDARD = frozenset(
    [
        "math",
        "cmath",
        "re",
        "string",
        "itertools",
        "functools",
        "collections",
        "operator",
        "statistics",
        "random",
        "heapq",
        "bisect",
        "datetime",
        "sys",
        "os",
    ]
)
MOST_ITEMS = 1_000_000  # of an iterator's items


class CandidateError(Exception):
    """The code under test raised something that is no built-in Exception, or has gone."""


class NotData(TypeError):
    """A test wants to hand over something that cannot leave its room."""


# --- plain data on the wire --------------------------------------------------------------------------------


def encode(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """A JSON-able form of built-in data. `keep(object)` gives a number to what is no data, None refuses."""
    kind: Any = type(value)
    if kind is int and value.bit_length() > 1024:
        return {"t": "int", "v": hex(value)}  # decimal takes quadratic time, and a million digits do occur
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, bool | int | float | str):  # a subclass: only its plain value travels
        plain: Any = next(b for b in (int, float, str) if isinstance(value, b))
        return encode(plain.__add__(value, plain()), keep)
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        if getattr(value, "shape", ()) == ():
            return encode(value.tolist(), keep)
        return {"t": "array", "v": encode(value.tolist(), keep), "d": str(value.dtype)}
    if isinstance(value, list):
        return [encode(v, keep) for v in list.__iter__(value)]
    bases: tuple[Any, ...] = (tuple, set, frozenset, collections.deque)
    for base in bases:
        if isinstance(value, base):
            return {"t": base.__name__, "v": [encode(v, keep) for v in base.__iter__(value)]}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[encode(k, keep), encode(v, keep)] for k, v in dict.items(value)]}
    if isinstance(value, bytes | bytearray):
        return {"t": "bytes" if isinstance(value, bytes) else "bytearray", "v": bytes(value).hex()}
    if isinstance(value, complex):
        return {"t": "complex", "v": [value.real, value.imag]}
    if isinstance(value, range):
        return {"t": "range", "v": [value.start, value.stop, value.step]}
    if isinstance(value, slice):
        return {"t": "slice", "v": [encode(x, keep) for x in (value.start, value.stop, value.step)]}
    if isinstance(value, collections.abc.KeysView | collections.abc.ItemsView | collections.abc.ValuesView):
        name = next(
            n for n in ("Keys", "Items", "Values") if isinstance(value, getattr(collections.abc, n + "View"))
        )
        return {"t": name, "v": [encode(v, keep) for v in value]}
    if kind.__module__ in ("decimal", "fractions"):
        return {"t": kind.__name__, "v": str(value)}
    if kind.__module__ == "datetime" and hasattr(value, "isoformat"):
        return {"t": kind.__name__, "v": value.isoformat()}
    if kind.__module__ == "datetime" and kind.__name__ == "timedelta":
        return {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    name = getattr(value, "__name__", "")
    if isinstance(value, type) and vars(builtins).get(name) is value:
        return {"t": "type", "v": name}
    if isinstance(value, types.ModuleType) and name in STANDARD:
        return {"t": "module", "v": name}
    if isinstance(value, Remote):
        return {"t": "ref", "v": object.__getattribute__(value, "_id")}
    if isinstance(value, collections.abc.Iterator):
        return {"t": "iterator", "v": [encode(v, keep) for v in itertools.islice(value, MOST_ITEMS)]}
    if keep is None:
        raise NotData(f"a test hands over a {kind.__name__}, which cannot leave its room")
    return {"t": "ref", "v": keep(value), "match": kind is re.Match}


def decode(value: Any, find: Callable[..., object]) -> Any:
    """The data again; `find(number)`, or `find(number, True)` of a match, gives what stands for a kept object."""
    if isinstance(value, list):
        return [decode(v, find) for v in value]
    if not isinstance(value, dict):
        return value
    kind, body = value["t"], value["v"]
    if kind == "ref":
        return find(body, True) if value.get("match") else find(body)
    if kind == "dict":
        return {decode(k, find): decode(v, find) for k, v in body}
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray).fromhex(body)
    if kind == "complex":
        return complex(*body)
    if kind == "int":
        return int(body, 16)
    if kind == "type":
        found = getattr(builtins, body)
        return found if isinstance(found, type) else object
    if kind == "module":
        # a test may rely on the program's `import math`: it gets its own, untouched one
        return importlib.import_module(body if body in STANDARD else "math")
    if kind in ("Decimal", "Fraction"):
        import decimal
        import fractions

        return decimal.Decimal(body) if kind == "Decimal" else fractions.Fraction(body)
    if kind in ("date", "datetime", "time", "timedelta"):
        import datetime

        known = getattr(datetime, kind)
        return known(*body) if kind == "timedelta" else known.fromisoformat(body)
    items = [decode(v, find) for v in body]
    if kind == "range":
        return range(*items)
    if kind == "slice":
        return slice(*items)
    if kind == "array":
        import numpy

        return numpy.array(items, dtype=None if value["d"] == "object" else value["d"])
    if kind == "Keys":
        return dict.fromkeys(items).keys()
    if kind == "Items":
        return dict(items).items()
    if kind == "Values":
        return dict(enumerate(items)).values()
    makers: dict[str, Any] = {
        "tuple": tuple,
        "set": set,
        "frozenset": frozenset,
        "deque": collections.deque,
        "iterator": iter,
    }
    return makers[kind](items)


class Channel:
    """Length-prefixed JSON messages over a connected socket's file descriptor."""

    def __init__(self, fd: int):
        self.fd = fd

    def send(self, message: object) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.fd, data) :]

    def take(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.fd, min(size, 1 << 20))
            if not part:
                raise EOFError("the other side has gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self) -> Any:
        size = int.from_bytes(self.take(4), "big")
        if size > MOST_BYTES:
            raise EOFError("the other side sent too much")
        return json.loads(self.take(size))


def private_channel() -> Channel:
    """The channel on descriptor 0, moved away from it; the program gets an empty standard input instead."""
    fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return Channel(fd)


# --- the program's side ------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[..., Any]] = {
    "len": len,
    "iter": lambda x: list(itertools.islice(iter(x), MOST_ITEMS)),
    "str": str,
    "repr": repr,
    "getitem": lambda x, k: x[k],
    "setitem": lambda x, k, v: x.__setitem__(k, v),
    "contains": lambda x, k: k in x,
    "eq": lambda x, y: bool(x == y),
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "bool": bool,
    "isinstance": lambda x, y: isinstance(y, x),
}


def serve() -> None:
    """Run `program.py`, then answer the judge until it hangs up. Whatever happens here is only an answer."""
    channel = private_channel()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.set_int_max_str_digits(0)
    with open("program.py", encoding="utf-8", errors="surrogatepass", newline="") as file:
        source = file.read()
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    space: dict[str, Any] = module.__dict__
    kept: list[object] = []

    def keep(thing: object) -> int:
        kept.append(thing)
        return len(kept) - 1

    def answer(request: dict) -> Any:
        if "load" in request:
            exec(compile(source, "program.py", "exec"), space)
            return [name for name in space if not name.startswith("__")]
        thing: Any = space[request["name"]] if "name" in request else kept[request["ref"]]
        args = decode(request.get("args", []), kept.__getitem__)
        if request["do"] == "call":
            return thing(*args, **decode(request["kwargs"], kept.__getitem__))
        if request["do"] == "get":
            return getattr(thing, request["attribute"]) if "attribute" in request else thing
        if request["do"] == "set":
            return setattr(thing, request["attribute"], *args)
        return OPERATORS[request["do"]](thing, *args)

    while True:
        try:
            request = channel.receive()
        except EOFError:
            os._exit(0)
        try:
            reply = {"value": encode(answer(request), keep)}
        except BaseException as error:
            lines = [k.__name__ for k in type(error).__mro__]
            try:
                text = str(error)[:300]
            except BaseException:
                text = ""
            reply = {"raised": lines, "text": text}
        channel.send(reply)


# --- the tests' side ---------------------------------------------------------------------------------------


class Peer:
    """The program as the tests reach it. Unless `objects`, its answers must be plain data: an object that stays
    over there could answer a comparison as it likes. Of a match the tests then learn that there is one, no more."""

    def __init__(self, channel: Channel, objects: bool):
        self.channel, self.objects = channel, objects

    def remote(self, number: int, match: bool = False) -> object:
        if not self.objects:
            if match:
                return object()
            raise CandidateError("the program answered with an object that is no plain data")
        return Remote(self, number)

    def global_name(self, name: str) -> Any:
        """The program's object of that name: a function or class stands for itself there, data comes over."""
        allowed, self.objects = self.objects, True
        try:
            thing = self.ask({"name": name, "do": "get"})
        finally:
            self.objects = allowed
        return Global(self, name) if isinstance(thing, Remote) else thing

    def ask(self, request: dict) -> Any:
        try:
            self.channel.send(request)
            reply = self.channel.receive()
        except (OSError, EOFError) as error:
            raise CandidateError("the program ended") from error
        if not isinstance(reply, dict) or ("value" not in reply and "raised" not in reply):
            raise CandidateError("the program's answer makes no sense")
        if "raised" in reply:
            for name in map(str, reply["raised"]):
                known = getattr(builtins, name, None)
                if (
                    isinstance(known, type)
                    and issubclass(known, Exception)
                    and not issubclass(known, UnicodeError)
                ):
                    raise known(f"[in the program] {reply['text']}")
            raise CandidateError(f"{reply['raised'][0]}: {reply['text']}")
        try:
            return decode(reply["value"], self.remote)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CandidateError("the program's answer makes no sense") from error


class Remote:
    """Stands for an object that stayed in the program's room. Never equal to data, whatever it says."""

    def __init__(self, peer: Peer, number: int):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_id", number)

    def _do(self, what: str, *args: object, **more: object) -> Any:
        peer, number = object.__getattribute__(self, "_peer"), object.__getattribute__(self, "_id")
        return peer.ask({"ref": number, "do": what, "args": [encode(a) for a in args]} | more)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._do("call", *args, kwargs=encode(kwargs))

    def __getattr__(self, name: str) -> Any:
        return self._do("get", attribute=name)

    def __setattr__(self, name: str, value: object) -> None:
        self._do("set", value, attribute=name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and bool(self._do("eq", other))

    def __hash__(self) -> int:
        return object.__getattribute__(self, "_id")

    def __bool__(self) -> bool:
        return bool(self._do("bool"))

    def __iter__(self) -> Iterator:
        return iter(self._do("iter"))

    def __instancecheck__(self, thing: object) -> bool:
        return isinstance(thing, Remote) and bool(self._do("isinstance", thing))


for _name in (
    "len",
    "str",
    "repr",
    "getitem",
    "setitem",
    "contains",
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
):
    setattr(Remote, f"__{_name}__", lambda self, *args, _name=_name: self._do(_name, *args))


class Global(Remote):
    """A name of the program: called and read by name, so that it may be rebound over there."""

    def __init__(self, peer: Peer, name: str):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_id", None)

    def _do(self, what: str, *args: object, **more: object) -> Any:
        peer, name = object.__getattribute__(self, "_peer"), object.__getattribute__(self, "_name")
        return peer.ask({"name": name, "do": what, "args": [encode(a) for a in args]} | more)


def names_used(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_used(constant)
    return found


def verdict(job: dict, channel: Channel) -> tuple[bool, str]:
    """Run the job's trusted `setup`, bind the program's names, run its `tests`. (passed, reason)."""
    peer = Peer(channel, job["objects"])
    space: dict[str, Any] = {"__name__": "tests"}
    tests = compile(job["tests"], "tests", "exec")
    exec(compile(job["setup"], "setup", "exec"), space)
    try:
        offered = peer.ask({"load": True})
        wanted = job["names"]
        if wanted == [EVERYTHING]:
            wanted = [n for n in offered if n not in space and not hasattr(builtins, n)]
        if wanted is None:
            known = set(space) | set(dir(builtins))
            wanted = sorted(n for n in names_used(tests) if n not in known and n in offered)
        for name in wanted:
            if name not in offered:
                return False, f"the program defines no {name}"
            space[name] = peer.global_name(name)
        exec(tests, space)
    except BaseException as error:
        text = (str(error).strip().splitlines() or [""])[0][:200]
        return False, f"{type(error).__name__}: {text}".rstrip(": ")
    return True, "passed"


def judge() -> None:
    """Write one JSON verdict to this room's own standard output."""
    channel = private_channel()
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    sys.set_int_max_str_digits(0)
    with open("job.json", encoding="utf-8") as file:
        job = json.load(file)
    passed, reason = verdict(job, channel)
    os.write(out, json.dumps({"passed": passed, "reason": reason}).encode())
    os._exit(0)
