"""A terminal's screen as an image, and screens one after the other as an animation. Knows nothing of editors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import pyte.screens
from PIL import Image, ImageDraw, ImageFont

SIZE, WIDTH, HEIGHT, MARGIN = 15, 9, 19, 10
_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_DARK = dict(zip(["black", "red", "green", "brown", "blue", "magenta", "cyan", "white"], [
    "#14161b", "#ffc0b9", "#b3f6c0", "#fce094", "#a6dbff", "#ffcaff", "#8cf8f7", "#e0e2ea",
], strict=True))  # fmt: skip
_LIGHT = dict(zip(["black", "red", "green", "brown", "blue", "magenta", "cyan", "white"], [
    "#14161b", "#590008", "#005523", "#6b5300", "#004c73", "#470045", "#007373", "#4f5258",
], strict=True))  # fmt: skip

Cells = list[list[pyte.screens.Char]]


@cache
def _font(bold: bool, italic: bool) -> ImageFont.FreeTypeFont:
    style = {(0, 0): "", (1, 0): "-Bold", (0, 1): "-Oblique", (1, 1): "-BoldOblique"}[bold, italic]
    return ImageFont.truetype(str(_FONTS / f"DejaVuSansMono{style}.ttf"), SIZE)


def _colour(name: str, other: str, light: bool) -> str:
    if name == "default":
        return other
    if len(name) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in name):
        return f"#{name}"
    return (_LIGHT if light else _DARK).get(name.removeprefix("bright"), other)


def picture(cells: Cells, cursor: tuple[int, int] | None = None, *, light: bool = False) -> Image.Image:
    """The image of a screen; `cursor` is (row, column)."""
    paper, ink = ("#e0e2ea", "#14161b") if light else ("#14161b", "#e0e2ea")
    size = (len(cells[0]) * WIDTH + 2 * MARGIN, len(cells) * HEIGHT + 2 * MARGIN)
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            front, back = _colour(cell.fg, ink, light), _colour(cell.bg, paper, light)
            if cell.reverse != ((row, column) == cursor):
                front, back = back, front
            x, y = MARGIN + column * WIDTH, MARGIN + row * HEIGHT
            if back != paper:
                draw.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), fill=back)
            if cell.data in "░▒▓█":  # shades, drawn: a font's leave seams
                share = {"░": 0.18, "▒": 0.35, "▓": 0.6, "█": 1.0}[cell.data]
                blend = Image.blend(Image.new("RGB", (1, 1), back), Image.new("RGB", (1, 1), front), share)
                draw.rectangle((x, y + 3, x + WIDTH - 1, y + HEIGHT - 4), fill=blend.getpixel((0, 0)))
            elif cell.data.strip():
                draw.text((x, y), cell.data, font=_font(cell.bold, cell.italics), fill=front)
            if cell.underscore:
                draw.line((x, y + HEIGHT - 2, x + WIDTH - 1, y + HEIGHT - 2), fill=front)
            if cell.strikethrough:
                draw.line((x, y + HEIGHT // 2, x + WIDTH - 1, y + HEIGHT // 2), fill=front)
    return image


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG of few colours: small, and the same bytes for the same screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def animate(frames: Sequence[tuple[Image.Image, float]], path: Path) -> None:
    """Write an animated GIF of images and the seconds that each is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    palette = frames[-1][0].quantize(64, dither=Image.Dither.NONE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image, _ in frames]
    durations = [int(seconds * 1000) for _, seconds in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
