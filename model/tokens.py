"""Text <-> token ids: a `tokenizers.Tokenizer` out of GGUF metadata or a tokenizer.json, and each id's bytes.

A user's text never becomes a special token, however it is spelled: `encode_text` leaves "<|im_end|>" the
ordinary text it is. Prompts put specials in by id (`layout.py`). Round trips are exact: the Unicode
normalisation (NFC) that Qwen's own tokenizer applies is left out, because it would silently rewrite a
user's file; on text that is already NFC, which is nearly all code, the ids are those of the Hugging Face
tokenizer.

Only byte-level BPE is read; nothing here knows of prompts, chat templates (never executed) or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from model.disk import is_sealed, write_sealed
from model.headers import GgufHeader, corrupt, file_size, read_json
from model.schema import DiffcoderError

if TYPE_CHECKING:
    from model.checkpoints import Checkpoint

_TOKENIZER_BYTES = 1 << 26
_PATTERN_CHARS = 2_000
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # ggml's token types that byte-level BPE uses

# How text is cut into words before merging; the names are GGUF's `tokenizer.ggml.pre`.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"qwen2": _WORDS % r"\p{N}", "llama-bpe": _WORDS % r"\p{N}{1,3}"}


def load_tokenizer(source: Checkpoint | Path | str, cached: Path | None = None) -> Tokenizer:
    """The tokenizer of a model: a Checkpoint, a .gguf file, a folder with tokenizer.json, or that file.

    `cached` names a tokenizer.json to write once and to read from then on. `get_added_tokens_decoder()` of
    the result lists the specials by id. Raises DiffcoderError("corrupt_model" or "unsupported_model").
    """
    if cached is not None and is_sealed(cached):
        return _text_stays_text(Tokenizer.from_file(str(cached)))
    path = Path(source) if isinstance(source, str | Path) else source.path
    if path.is_dir():
        tokenizer = _from_json(path / "tokenizer.json")
    elif path.suffix == ".gguf":
        header = getattr(source, "header", None)
        tokenizer = _from_gguf(header if isinstance(header, GgufHeader) else GgufHeader(path))
    elif path.suffix == ".safetensors":
        tokenizer = _from_json(path.parent / "tokenizer.json")
    else:
        tokenizer = _from_json(path)
    if cached is not None:
        text = tokenizer.to_str()
        write_sealed(cached, lambda file: file.write_text(text, encoding="utf-8"))
    return tokenizer


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a user's text, without specials: neither added (no begin token) nor recognised in it."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the special tokens by name."""
    return {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}


class TokenTable:
    """What each id stands for. `bytes[id]` is the token's UTF-8 bytes, possibly a part of a character; empty
    for every id of `not_text`: specials, and ids that no token has. `special_ids` maps their names to ids.
    `size` is the model's vocabulary (rows of its head), which may exceed the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, size: int):
        specials = tokenizer.get_added_tokens_decoder()
        self.special_ids = special_ids(tokenizer)
        table = [b""] * size
        for token, id in tokenizer.get_vocab(with_added_tokens=False).items():
            if id not in specials:
                if id >= size:
                    raise DiffcoderError(
                        "corrupt_model",
                        f"The tokenizer has an id {id} and the model only {size}: fetch the model again.",
                    )
                table[id] = token.translate(_LATIN_OF_BYTE_CHAR).encode("latin-1")
        self.bytes = table
        self.not_text = frozenset(id for id, piece in enumerate(table) if not piece)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids spell; specials spell nothing."""
        return b"".join([self.bytes[id] for id in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids spell; a character that is still incomplete becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def _byte_chars() -> dict[int, int]:
    """GPT-2's printable stand-ins, code point -> byte: most stand for themselves, 256 and on for others."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {byte: byte for byte in plain} | {256 + n: byte for n, byte in enumerate(others)}


_LATIN_OF_BYTE_CHAR = _byte_chars()


def _from_gguf(header: GgufHeader) -> Tokenizer:
    path, values = header.path, header.values
    if values.get("tokenizer.ggml.model") != "gpt2":
        _unsupported(path, "its tokenizer is not byte-level BPE")
    tokens = header.strings("tokenizer.ggml.tokens")
    kinds = header.numbers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens) or not set(kinds) <= {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}:
        corrupt(path, "its token types do not fit its tokens")
    vocab = {token: id for id, token in enumerate(tokens) if kinds[id] != _UNUSED}
    if len(vocab) != sum(kind != _UNUSED for kind in kinds):
        corrupt(path, "two of its tokens are spelled the same")
    merges = [tuple(merge.split(" ")) for merge in header.strings("tokenizer.ggml.merges")]
    specials = [token for id, token in enumerate(tokens) if kinds[id] in (_CONTROL, _USER_DEFINED)]
    pre = values.get("tokenizer.ggml.pre")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _SPLITS)
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
        pre_tokenizer: Any = pre_tokenizers.Sequence([split, byte_level])
    elif pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif pre == "gpt-2":
        pre_tokenizer = byte_level
    else:
        _unsupported(path, f"its text splitter {str(pre)[:40]!r} is unknown")
    return _build(path, vocab, merges, specials, pre_tokenizer, ignore_merges=pre == "llama-bpe")


def _from_json(path: Path) -> Tokenizer:
    """Take from a tokenizer.json what byte-level BPE needs: no truncation, padding or templates."""
    size = file_size(path)
    if size > _TOKENIZER_BYTES:
        corrupt(path, f"it has {size} bytes where at most {_TOKENIZER_BYTES} belong")
    table = read_json(path, path.read_bytes())
    model, normalizer, added = table.get("model"), table.get("normalizer"), table.get("added_tokens")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        _unsupported(path, "its tokenizer is not byte-level BPE")
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        _unsupported(path, "its tokenizer is not byte-level BPE")
    if normalizer is not None and (not isinstance(normalizer, dict) or normalizer.get("type") != "NFC"):
        _unsupported(path, "its tokenizer rewrites the text")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not isinstance(added, list):
        corrupt(path, "its tables are missing")
    if not all(isinstance(merge, str | list) for merge in merges):
        corrupt(path, "a merge is not of two tokens")
    if not all(type(id) is int and 0 <= id < 1 << 24 for id in vocab.values()):
        corrupt(path, "an id is not a number")
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else map(str, merge)) for merge in merges]
    vocab, specials = dict(vocab), []
    for token in added:
        content, id = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(content, str) or not content or type(id) is not int or not 0 <= id < 1 << 24:
            corrupt(path, "an added token is malformed")
        if vocab.setdefault(content, id) != id:
            corrupt(path, "an added token has two ids")
        specials.append(content)
    if len(set(vocab.values())) != len(vocab):
        corrupt(path, "two tokens share an id")
    pre_tokenizer = _pre_tokenizer(path, table.get("pre_tokenizer"))
    ignore_merges = model.get("ignore_merges", False)
    if type(ignore_merges) is not bool:
        corrupt(path, "ignore_merges is neither true nor false")
    return _build(path, vocab, pairs, specials, pre_tokenizer, ignore_merges)


def _pre_tokenizer(path: Path, spec: object) -> Any:
    """Rebuild a splitter from its description; the last part must map text to bytes."""
    parts = spec.get("pretokenizers") if isinstance(spec, dict) and spec.get("type") == "Sequence" else [spec]
    if not isinstance(parts, list) or not 1 <= len(parts) <= 8:
        corrupt(path, "its text splitter is malformed")
    built: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "ByteLevel":
            use_regex = bool(part.get("use_regex", True))
            if part.get("add_prefix_space"):
                _unsupported(path, "its tokenizer puts a space before the text")
            built.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex))
        elif kind == "Digits":
            built.append(pre_tokenizers.Digits(individual_digits=bool(part.get("individual_digits"))))
        elif kind == "Split":
            pattern = part.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if not isinstance(regex, str) or len(regex) > _PATTERN_CHARS or part.get("invert"):
                corrupt(path, "its text splitter is malformed")
            if part.get("behavior") != "Isolated":
                _unsupported(path, "its text splitter drops or joins text")
            try:
                built.append(pre_tokenizers.Split(Regex(regex), "isolated"))
            except Exception:  # the regex engine's own error type is plain Exception
                corrupt(path, "its text splitter is malformed")
        else:
            _unsupported(path, f"its text splitter {str(kind)[:40]!r} is unknown")
    if not isinstance(built[-1], pre_tokenizers.ByteLevel):
        _unsupported(path, "its tokenizer is not byte-level BPE")
    return pre_tokenizers.Sequence(built)


def _build(
    path: Path,
    vocab: dict[str, int],
    merges: list[Any],
    specials: list[str],
    pre_tokenizer: Any,
    ignore_merges: bool,
) -> Tokenizer:
    for pair in merges:
        if len(pair) != 2 or pair[0] not in vocab or pair[1] not in vocab:
            corrupt(path, "a merge is not of two tokens")
    products = {left + right for left, right in merges}
    special = set(specials)
    if not products <= vocab.keys():
        corrupt(path, "a merge yields no token")
    if products & special:
        corrupt(path, "ordinary text would merge into a special token")
    alphabet = frozenset(map(chr, _LATIN_OF_BYTE_CHAR))
    if not all(alphabet.issuperset(token) for token in vocab if token not in special):
        corrupt(path, "a token is not spelled in bytes")
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    _text_stays_text(tokenizer)
    if any(vocab[token] in encode_text(tokenizer, token) for token in specials):
        corrupt(path, "ordinary text would become a special token")
    return tokenizer


def _text_stays_text(tokenizer: Tokenizer) -> Tokenizer:
    """Never match text against the added tokens. The flag is not in tokenizer.json: set after each load."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def _unsupported(path: Path, reason: str) -> NoReturn:
    raise DiffcoderError("unsupported_model", f"{path.name} cannot be used ({reason}): choose another model.")
