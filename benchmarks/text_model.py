"""An independent model of a client's text, as slow and plain as can be: encoded code units in one list.

Shares no code with the server. A position is looked up by walking over the units of the whole text.
"""

from __future__ import annotations

import random

ALPHABET = [
    "a",
    "b",
    " ",
    "\t",
    "\n",
    "\n",
    "\r\n",
    "\r",
    "é",
    "ß",
    "漢",
    "😀",
    "👩‍💻",
    "\u2028",
    "\x0c",
    "\x85",
    "x = 1",
]
_WIDTH = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
Place = tuple[tuple[int, int], tuple[int, int]]


class Model:
    def __init__(self, text: str, encoding: str):
        self.text, self.encoding = text, encoding

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, by counting from the start."""
        line = column = at = 0
        while at < offset:
            if self.text[at : at + 2] == "\r\n":
                at += 2
                line, column = line + 1, 0
            elif self.text[at] in "\r\n":
                at += 1
                line, column = line + 1, 0
            else:
                column += len(self.text[at].encode(self._codec)) // _WIDTH[self.encoding]
                at += 1
        return line, column

    def replace(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]

    @property
    def _codec(self) -> str:
        return self.encoding if self.encoding == "utf-8" else f"{self.encoding}-le"


def random_change(draw: random.Random, model: Model) -> tuple[Place | None, str]:
    """Change the model at random; the change as a client would send it, None for the whole text."""
    new = "".join(draw.choices(ALPHABET, k=draw.randint(0, 4)))
    if draw.random() < 0.02:
        model.text = new
        return None, new
    places = [n for n in range(len(model.text) + 1) if model.text[n - 1 : n + 1] != "\r\n" or n == 0]
    start = draw.choice(places)
    end = draw.choice([n for n in places if n >= start][: draw.choice([1, 3, 30])])
    place = (model.position(start), model.position(end))
    model.replace(start, end, new)
    return place, new
