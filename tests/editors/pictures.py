"""Takes the documentation's pictures of VS Code anew: each capability, light and dark, and a draft as an animation.

    python -m tests.editors.pictures docs/pictures/vscode [WHAT...]

Neovim's come from its tests: `pytest tests/editors/test_neovim_real.py --screens docs/pictures/neovim`. Look at all of
them before you commit: nothing here says whether they please.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tests.editors import code_server
from tests.editors.picture import animate, save
from tests.training.test_tune import source

SETTINGS = {
    "breadcrumbs.enabled": False,
    "editor.hideCursorInOverviewRuler": True,
    "editor.minimap.enabled": False,
    "editor.overviewRulerBorder": False,
    "editor.renderWhitespace": "none",
    "window.commandCenter": False,
    "window.menuBarVisibility": "hidden",
    "workbench.activityBar.location": "hidden",
    "workbench.layoutControl.enabled": False,
}
"""Room for what is to be seen."""
FRAME_SECONDS, LAST_SECONDS = 0.18, 3.0


def main(folder: Path, only: list[str]) -> None:
    tools = code_server.tools()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        vsix = code_server.package(tools, root / "dist")
        shop = {f"shop/part{number}.py": source(number) for number in range(24)}
        with code_server.driven(tools, vsix, root, {"ghost.py": ""} | shop, SETTINGS) as options:
            script = str(Path(__file__).with_name("vscode_pictures.mjs"))
            subprocess.run(["node", script, json.dumps(options), *only], env=tools.environment, check=True)
        shots = root / "shots"
        for failed in shots.glob("failed-*"):
            failed.rename(folder / failed.name)
        for shot in sorted(shots.glob("[!f]*.png")) + sorted(shots.glob("fix-*.png")):
            save(Image.open(shot).convert("RGB"), folder / shot.name)
        for theme in ("light", "dark"):
            frames = distinct(sorted(shots.glob(f"frame-{theme}-*.png")))
            if frames:
                last = Image.open(shots / f"review-{theme}.png").convert("RGB")
                film = [(frame, FRAME_SECONDS) for frame in frames] + [(last, LAST_SECONDS)]
                animate(
                    [(small(image), seconds) for image, seconds in film], folder / f"denoising-{theme}.gif"
                )


def distinct(paths: list[Path]) -> list[Image.Image]:
    """The images without those whose text area is that of the one before."""
    images: list[Image.Image] = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        area = (0, 0, image.width, image.height - 40)  # below is the status bar, whose spinner turns
        if not images or ImageChops.difference(image.crop(area), images[-1].crop(area)).getbbox():
            images.append(image)
    return images


def small(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
