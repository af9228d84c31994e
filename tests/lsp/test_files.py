"""Files are read as what they are and written back the same way, or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffcoder_lsp.files import MAX_BYTES, read_file, write_file
from model.schema import DiffcoderError


def error_of(action, *arguments) -> DiffcoderError:
    with pytest.raises(DiffcoderError) as caught:
        action(*arguments)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("größe = 1\n".encode(), "utf-8"),
        ("\ufeffx = 'ü'\r\n".encode(), "utf-8-sig"),
        ("größe\n".encode("latin-1"), "latin-1"),
        ("“größe” €\n".encode("cp1252"), "cp1252"),
        (b"# -*- coding: koi8-r -*-\nx = '" + "привет".encode("koi8-r") + b"'\n", "koi8-r"),
        (b"\xe9\x81\n", "latin-1"),  # 0x81 is nothing in cp1252
        (b"# coding: no-such-codec\n\xe9\n", "latin-1"),
        (b"a\x0cb\x1b[0m\n\xe9", "latin-1"),
        (b"", "utf-8"),
    ],
)
def test_a_file_is_read_in_its_encoding_and_written_back_byte_for_byte(tmp_path, data, encoding):
    path = tmp_path / "file"
    path.write_bytes(data)
    source = read_file(path)
    assert source.encoding == encoding
    assert not source.text.startswith("\ufeff")
    write_file(source, source.text)
    assert path.read_bytes() == data
    write_file(source, source.text + "x")
    assert path.read_bytes() == data + b"x"


@given(st.text(alphabet="a\t\r\n\fé€", max_size=30), st.sampled_from(["utf-8", "utf-8-sig", "cp1252"]))
@example("é€€", "cp1252")
def test_any_text_survives_reading_and_writing(tmp_path_factory, text, encoding):
    path = tmp_path_factory.mktemp("files") / "file.txt"
    data = text.encode(encoding)
    path.write_bytes(data)
    source = read_file(path)
    assert source.text == as_utf8(data, otherwise=text)
    write_file(source, source.text)
    assert path.read_bytes() == data


def as_utf8(data: bytes, otherwise: str) -> str:
    """Bytes that are valid UTF-8 are UTF-8, as in every editor, whatever whoever wrote them had in mind."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return otherwise


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x7fELF\x02\x01\x01\0\0", "not_text"),
        (b"\x89PNG\r\n\x1a\n\xde\xad\xbe\xef", "not_text"),
        ("x = 1\n".encode("utf-16"), "not_text"),
        (b"x = 1\n" * (MAX_BYTES // 6 + 1), "file_too_large"),
    ],
)
def test_what_is_not_a_source_file_is_refused(tmp_path, data, code):
    path = tmp_path / "file.py"
    path.write_bytes(data)
    assert error_of(read_file, path).code == code


def test_a_file_of_exactly_the_limit_is_read(tmp_path):
    path = tmp_path / "file.py"
    path.write_bytes(b"x" * MAX_BYTES)
    assert len(read_file(path).text) == MAX_BYTES


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert error_of(read_file, tmp_path / "pipe").code == "not_a_file"
    assert error_of(read_file, tmp_path).code == "not_a_file"
    assert error_of(read_file, tmp_path / "missing").code == "no_such_file"
    assert error_of(read_file, tmp_path / "a\0b").code == "cannot_read"
    assert error_of(read_file, "/dev/zero").code == "not_a_file"


def test_a_character_that_does_not_fit_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "old.py"
    path.write_bytes("# größe\n".encode("latin-1"))
    source = read_file(path)
    error = error_of(write_file, source, source.text + "→")
    assert error.code == "does_not_fit"
    assert "U+2192" in error.message
    assert path.read_bytes() == source.data
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.py"]


def test_a_lone_surrogate_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x\n")
    assert "U+D800" in error_of(write_file, read_file(path), "\ud800").message
    assert path.read_text() == "x\n"


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    source = read_file(path)
    path.write_text("y = 2\n")
    assert error_of(write_file, source, "z").code == "file_changed"
    path.unlink()
    assert error_of(write_file, source, "z").code == "cannot_write"
    assert list(tmp_path.iterdir()) == []


def test_mode_and_symbolic_link_are_kept(tmp_path):
    target = tmp_path / "real" / "tool.py"
    target.parent.mkdir()
    target.write_text("x\n")
    target.chmod(0o750)
    link = tmp_path / "link.py"
    link.symlink_to(Path("real/tool.py"))
    write_file(read_file(link), "y\n")
    assert link.is_symlink()
    assert target.read_text() == "y\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert [entry.name for entry in target.parent.iterdir()] == ["tool.py"]


def test_a_killed_writer_leaves_the_old_file_or_the_new(tmp_path):
    """Whatever moment the process dies at, the file is whole."""
    path = tmp_path / "a.py"
    old, new = "a" * 3_000_000, "b" * 3_000_000
    script = (
        "import sys, threading, os, signal\n"
        "from diffcoder_lsp.files import read_file, write_file\n"
        "source = read_file(sys.argv[1])\n"
        "threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        "write_file(source, 'b' * 3_000_000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    for delay in (0.0, 0.001, 0.002, 0.004, 0.008):
        path.write_text(old)
        subprocess.run([sys.executable, "-c", script, path, str(delay)], cwd=root, check=False)
        assert path.read_text() in (old, new)
