"""What other files add to a prompt, and what never enters one."""

from __future__ import annotations

import pytest

from diffcoder_lsp.context import Ignored, Secrets, _holds_secret, is_secret, outline, snippets
from diffcoder_lsp.documents import Document

KEY = "AKIA" + "IOSFODNN7EXAMPLE"


@pytest.mark.parametrize(
    "text",
    [
        f"key = {KEY}",
        "password = 'hunter2hunter2'",
        '"api_key": "abcdefgh12345678"',
        "url = 'postgres://user:s3cretpass@host/db'",
        "ghp_" + "a1B2" * 9,
    ],
)
def test_values_that_look_secret_are_hidden_and_come_back(text):
    secrets = Secrets()
    hidden = secrets.hide(text)
    assert "HIDDEN_SECRET_1" in hidden
    assert secrets.reveal(hidden) == text
    for value in (KEY, "hunter2hunter2", "abcdefgh12345678", "s3cretpass", "a1B2a1B2"):
        assert value not in hidden


@pytest.mark.parametrize(
    "code",
    [
        "def f(token):\n    password = read()\n    return token.kind == 'name' and url('http://x/y')\n",
        "add_token('<|endoftext|>')\nif token == 'function':\n    read(join(pwd, './data/sfc64-testset-1.csv'))\n",
        'password=self.passwords[1].value; token=read_token(2);\nx = "a;" + token',
    ],
)
def test_plain_code_is_left_alone(code):
    assert Secrets().hide(code) == code


@pytest.mark.parametrize(
    "line",
    [
        'x = 1; password = "‹hunt|er2hunter2›"',
        "password = '‹hunter2hunter2|›'",
        "password = '‹|hunter2hunter2›'  # x",
        "connect(password='‹hunter2hunter2|›, 'user')",
        'connect("me", password="‹hunter2|hunter3›)',
        f"key = ‹{KEY[:9]}|{KEY[9:]}›",
        "url = 'postgres://user:‹s3cr|etpass›@host/db'",
        "‹" + "a1B2" * 8 + "|" + "c3D4" * 8 + "›",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_value_with_the_cursor_in_it_is_hidden_on_both_sides(line, end):
    above, below = f"token = '{KEY}'{end}", f"{end}x = 1{end}"
    start, value, rest = line.replace("‹", "›").split("›")
    parts = value.split("|")
    secrets = Secrets()
    prefix, suffix = secrets.hide_around(above + start + parts[0], parts[1] + rest + below)
    names = [f"HIDDEN_SECRET_{n}" if part else "" for n, part in enumerate(parts, 2 if parts[0] else 1)]
    assert prefix == f"token = 'HIDDEN_SECRET_1'{end}" + start + names[0]
    assert suffix == names[1] + rest + below
    assert secrets.reveal(prefix + "|" + suffix) == above + start + value + rest + below


@pytest.mark.parametrize("end", ["\n", "\r\n", "\\n"])
def test_a_private_key_with_the_cursor_anywhere_in_it_is_hidden_on_both_sides(end):
    body = [f"{n}aB{n}c+D{n}e" * 7 for n in range(1, 5)] + ["q83vEjRWeJq8"]
    lines = ["-----BEGIN RSA PRIVATE KEY-----", *body, "-----END RSA PRIVATE KEY-----"]
    text = f'import a\n\nKEY = """{end.join(lines)}"""\n\nx = 1\n'
    for at in range(text.index("-----B") + 1, text.rindex("-----") + 4):
        secrets = Secrets()
        prefix, suffix = secrets.hide_around(text[:at], text[at:])
        assert secrets.reveal(prefix) == text[:at]
        assert secrets.reveal(suffix) == text[at:]
        assert prefix.startswith('import a\n\nKEY = """-')
        assert suffix.endswith('"""\n\nx = 1\n')
        assert not any(line[n : n + 4] in prefix + suffix for line in body for n in range(len(line) - 3))


@pytest.mark.parametrize(
    "line", ["f(token=token_1|, key)", "password = |read('a1b2c3d4')", "x = 'token'|", "|"]
)
def test_code_with_the_cursor_in_it_is_left_alone(line):
    prefix, suffix = line.split("|")
    assert Secrets().hide_around(prefix, suffix) == (prefix, suffix)


def test_many_secrets_come_back_each_in_its_place():
    text = "".join(f"password_{n} = 'hunter{n:02}hunter'\n" for n in range(1, 13))
    secrets = Secrets()
    hidden = secrets.hide(text)
    assert "HIDDEN_SECRET_12'" in hidden
    assert secrets.reveal(hidden) == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_after_a_key_one_paragraph_is_searched_and_no_more(end):
    paragraphs = [f"x_{n} = {n}{end}y_{n} = x_{n}" for n in range(200)]
    _holds_secret.cache_clear()
    Secrets().hide((end * 2).join(paragraphs))
    Secrets().hide((end * 2).join([*paragraphs[:100], "x", *paragraphs[101:]]))
    assert _holds_secret.cache_info().misses == 201


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "prod.env", "a/id_rsa", "x.pem", "credentials.json", "~/.ssh/config"]
)
def test_files_that_look_secret(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", ["environment.py", "key.py", "secretary.py", "keys/a.py"])
def test_files_that_do_not(name):
    assert not is_secret(name)


def test_ignore_files_follow_gits_rules(tmp_path):
    (tmp_path / "sub" / "build").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("*.log\nbuild/\n/only_here.py\n")
    (tmp_path / "sub" / ".gitignore").write_text("!keep.log\n")
    (tmp_path / "sub" / ".diffcoderignore").write_text("private_*\n")
    ignored = Ignored([tmp_path])
    for name, expected in {
        "a.log": True,
        "sub/a.log": True,
        "sub/keep.log": False,
        "sub/build/x.py": True,
        "only_here.py": True,
        "sub/only_here.py": False,
        "sub/private_a.py": True,
        "a.py": False,
        "sub/.env": True,
    }.items():
        assert (str(tmp_path / name) in ignored) is expected, name
    assert "/elsewhere/a.log" not in ignored
    (tmp_path / ".gitignore").write_text("a.py\n#\n#\n")
    assert str(tmp_path / "a.py") in ignored


def test_outlines_of_other_files_within_the_budget():
    def of(name: str, text: str) -> Document:
        return Document.of(f"file:///w/{name}", text)

    other = of("b.py", f"import os\n\nclass A:\n    x = 1\n    def f(self, key='{KEY}'):\n        pass\n")
    assert outline(other, 1000) == f"class A:\n    def f(self, key='{KEY}'):"
    current, script, secret = of("a.py", ""), of("c.js", "function g() {\n"), of(".env", "def leak\n")
    found = snippets(current, [script, secret, other], Ignored(), 200)
    assert [snippet.path for snippet in found] == ["b.py", "c.js"]
    assert KEY not in found[0].text
    assert snippets(current, [other], Ignored(), 0) == ()
    long = of("d.py", "def f(): pass\n" * 1000)
    assert sum(len(snippet.text) for snippet in snippets(current, [long], Ignored(), 100)) <= 320
