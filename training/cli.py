"""`diffcoder train`: recipes run by name, and what they need: corpus, edits, continuations, decontamination.

`diffcoder train NAME` is short for `diffcoder train train NAME`.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from model import store
from model.disk import cache_folder
from model.schema import DiffcoderError
from training.arguments import amount, count, threads
from training.decontamination import SETS
from training.making import decontaminate, make_corpus, mine_commits, read_chats, write
from training.running import evaluate, export, train


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    common = _common()
    options, rest = common.parse_known_args(arguments)  # they may stand anywhere
    if rest and not rest[0].startswith("-") and rest[0] not in COMMANDS:
        rest.insert(0, "train")
    options = _parser(common).parse_args(rest, options)
    torch.set_num_threads(options.threads)
    try:
        if options.base is None:
            options.base = store.model_path("default")
        return int(options.run(options) or 0)
    except DiffcoderError as error:
        print(f"diffcoder train: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"diffcoder train: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("diffcoder train: stopped.", file=sys.stderr)
        return 130
    return 1


COMMANDS = ("corpus", "commits", "chat", "decontaminate", "write", "train", "export", "evaluate")


def _common() -> argparse.ArgumentParser:
    """What every command takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base", type=Path, help="checkpoint to start from (default: the default model's)")
    parser.add_argument("--corpus", type=Path, default=cache_folder() / "training" / "corpus")
    parser.add_argument("--threads", type=threads, default=torch.get_num_threads())
    return parser


def _parser(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffcoder train", description=__doc__, parents=[common])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("corpus", help="read folders of source code into a corpus of token ids")
    add.add_argument("--source", action="append", nargs=3, metavar=("NAME", "FOLDER", "LICENCE"), default=[])
    add.add_argument("--packages", action="append", type=Path, default=[], help="folder of licensed packages")
    add.add_argument("--most", type=count, help="most files of one package; a --source is read whole")
    _benchmarks(add)
    add.set_defaults(run=make_corpus)
    add = commands.add_parser("commits", help="edits out of a repository's history and made from its files")
    add.add_argument("repository", type=Path)
    add.add_argument("folder", type=Path, help="where the examples go")
    add.add_argument("--most", type=count, default=1500, help="examples of either kind (%(default)s)")
    _benchmarks(add)
    add.set_defaults(run=mine_commits)
    add = commands.add_parser("chat", help="answers out of conversations, as examples to learn from")
    add.add_argument("file", type=Path, help='JSON lines: {"messages": [{"role": ..., "content": ...}, ...]}')
    add.add_argument("folder", type=Path, help="where the examples go")
    _benchmarks(add)
    add.set_defaults(run=read_chats)
    add = commands.add_parser(
        "decontaminate", help="check a corpus against the benchmarks, 13 words at a time"
    )
    _benchmarks(add)
    add.set_defaults(run=decontaminate)
    add = commands.add_parser("write", help="let the base continue real prompts")
    add.add_argument("folder", type=Path)
    prompts = add.add_mutually_exclusive_group()
    prompts.add_argument(
        "--humaneval", type=Path, help="prompts from this benchmark file, for evaluation only"
    )
    prompts.add_argument(
        "--of-held-out",
        action="store_true",
        help="prompts from the corpus's held-out files, for evaluation only",
    )
    add.add_argument("--recipe", default="gated")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.add_argument("--count", type=count, default=40)
    add.add_argument("--tokens", type=count, default=64)
    add.add_argument("--seed", type=partial(count, least=0), default=1)
    _benchmarks(add)
    add.set_defaults(run=write)
    add = commands.add_parser("train", help="train by a recipe")
    add.add_argument("recipe", help="a name in training/recipes, or a .toml file")
    add.add_argument("--run", dest="run_folder", type=Path, help="folder of the run (default: by the name)")
    add.add_argument(
        "--held-out",
        type=Path,
        help="folder of the base's continuations of held-out prompts (gated recipes)",
    )
    add.add_argument(
        "--written", type=Path, help="folder of the base's continuations to learn from (gated recipes)"
    )
    add.add_argument(
        "--examples",
        type=Path,
        action="append",
        help="folder of edits or answers to learn from; again for more (gated and team recipes, and those whose data"
        " are examples)",
    )
    add.add_argument(
        "--minutes",
        type=amount,
        default=1e9,
        help="stop after so many, of processor time of a thread (on a GPU: by the clock)",
    )
    add.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    add.add_argument(
        "--start", type=Path, help="adapter file to start from (gated recipes), with a fresh optimiser"
    )
    _benchmarks(add)
    add.set_defaults(run=train)
    add = commands.add_parser("export", help="write the adapter or model of a run's last checkpoint")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.set_defaults(run=export)
    add = commands.add_parser("evaluate", help="held-out numbers of an adapter file")
    add.add_argument("adapter", type=Path)
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument(
        "--against", type=Path, help="another adapter file: differences in pairs, this one's less its"
    )
    add.add_argument("--files", type=count, default=12, help="held-out files of each language (%(default)s)")
    add.set_defaults(run=evaluate)
    assert set(commands.choices) == set(COMMANDS)
    return parser


def _benchmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmarks", type=Path, help=f"folder of the benchmark sets to stay clear of (default: {SETS})"
    )


if __name__ == "__main__":
    sys.exit(main())
