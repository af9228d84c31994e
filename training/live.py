"""What a person sees while a run goes on: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY_S = 30.0  # between two lines where there is no terminal


class Live:
    """Speaks on standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def asks(self, question: str) -> bool:
        """Whether the person says yes; nobody there means no."""
        if not self.console.is_terminal:
            return False
        try:
            return self.console.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            return False

    @contextmanager
    def counting(self, what: str, count: int) -> Iterator[Callable[[int], None]]:
        """Yields what takes the number that is done."""
        with self._progress("") as progress:
            task = progress.add_task(what, total=count, note="")
            said = time.monotonic()

            def done(number: int) -> None:
                nonlocal said
                progress.update(task, completed=number)
                if not self.console.is_terminal and time.monotonic() - said > EVERY_S:
                    said = time.monotonic()
                    self.say(f"{what}: {number} of {count}")

            yield done

    @contextmanager
    def training(self, steps: int) -> Iterator[Callable[[dict[str, object]], None]]:
        """Yields what takes the lines of a run's log: loss, rows a second, time left."""
        with self._progress("training") as progress:
            task = progress.add_task("training", total=steps, note="")
            said = time.monotonic()

            def line(entry: dict[str, object]) -> None:
                nonlocal said
                if "evaluation" in entry:
                    self.say(
                        f"step {entry['evaluation']}: held-out {entry.get('bits_per_token')} bits a token"
                    )
                    return
                if "step" not in entry:
                    return
                step = int(str(entry["step"]))
                note = f"loss {entry['loss']}, {entry['rows_per_s']} rows/s"
                progress.update(task, completed=step, note=note)
                if not self.console.is_terminal and time.monotonic() - said > EVERY_S:
                    said = time.monotonic()
                    left = progress.tasks[0].time_remaining
                    known = f", {left / 60:.1f} minutes left" if left is not None else ""
                    self.say(f"step {step} of {steps}: {note}{known}")

            yield line

    def _progress(self, name: str) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=600,
        )
