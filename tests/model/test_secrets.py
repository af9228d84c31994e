"""What secrets look like: both who hides them from prompts and who takes them out of what is learnt know all of it."""

from __future__ import annotations

import time

import pytest

from diffcoder_lsp.context import Secrets
from training.scrubbing import scrub

# In parts, so that whoever looks for secrets in this repository finds none.
HEX = "a8f5f167" + "f44f4964e6c998dee827110c"
PASSWORD = "Zk39fLq0" + "xPw81s"
AWS = "wJalrXUtnFEMI/K7" + "MDENG+bPxRfiCYaXAMPLEKEY"
SERVICES = [
    "AK" + "IA" + "ABCDEFGHIJ234567",
    *(f"gh{kind}_" + "a1B2c3D4" * 5 for kind in "oprsu"),
    "SG" + "." + "ngeVfQFYQlKU0ufo8x5d1A" + "." + "TwL2iGABf9DHoTf-09kqeF8tAmbihYzr",
    "xapp" + "-1-A0123456789-1234567890123-abcdef0123456789",
    "xoxb" + "-123456789012-abcdefABCDEF",
    "GOCSPX" + "-a1B2c3D4e5F6g7H8i9J0k1L2m3N4",
    "sk_" + "live_" + "a1B2c3D4" * 3,
    "sk" + "-ant-api03-" + "a1B2c3D4-" * 4,
    "ey"
    + "JhbGciOiJIUzI1NiJ9"
    + "."
    + "ey"
    + "JzdWIiOiIxMjM0NTY3ODkwIn0"
    + "."
    + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
]
LINES = [
    ('REDIS = "redis://:{}@cache.example.com:6379/0"', PASSWORD),
    ('DB = "postgres://app:{}@db.example.com/app"', PASSWORD),
    ('headers = {{"X-API-Key": "{}"}}', HEX),
    ('headers = {{"api-key": "{}"}}', HEX),
    ('AWS_ACCESS_KEY = "{}"', AWS),
    ("aws_secret_access_key = '{}'", AWS),
    ('pwd = "{}"', PASSWORD),
    ('passphrase = "{}"', PASSWORD),
    ('C = "Server=db1;Database=app;User Id=sa;Password={};"', PASSWORD),
    ('C = "Endpoint=https;AccountName=acc;AccountKey={};EndpointSuffix=core"', AWS.replace("/", "x") + "=="),
    ('url = f"{{host}}/items?api_key={}&page=2"', HEX),
    ('h = {{"Authorization": "Bearer {}"}}', HEX),
    ('ds.setPassword("{}");', PASSWORD),
    ('std::string password("{}");', PASSWORD),
    ('std::string password{{"{}"}};', PASSWORD),
    ('char password[] = "{}";', PASSWORD),
    ("const token: string | undefined = '{}';", HEX),
    ("api_key: Optional[str] = '{}'", HEX),
    ('apiKey := "{}"', HEX),
    ('if (password == "{}") {{', PASSWORD),
    ('os.environ.get("DB_PASSWORD", "{}")', PASSWORD),
]


@pytest.mark.parametrize(
    ("line", "value"), [*LINES, *(("send('{}')", key) for key in SERVICES), ("KEY={}", SERVICES[0])]
)
def test_a_secret_is_neither_learnt_nor_shown(line: str, value: str) -> None:
    text = line.format(value)
    assert scrub(text) == (line.format("scrubbed"), 1)
    secrets = Secrets()
    assert secrets.hide(text) == line.format("HIDDEN_SECRET_1")
    assert secrets.reveal(secrets.hide(text)) == text


def key_block(kind: str, body: str, end: bool = True) -> str:
    edges = [f"-----{edge} {kind}-----" for edge in ("BEGIN", "END")]
    return edges[0] + body + edges[1] * end


BODY = [("lQOYBGPm3xkB" + "CADKd8Yw1m2J8v0qZ" + str(n)) * 2 for n in range(3)]


@pytest.mark.parametrize(
    "key",
    [
        key_block("RSA " + "PRIVATE KEY", "\n" + "\n".join(BODY) + "\n"),
        key_block("ENCRYPTED " + "PRIVATE KEY", "\n" + "\n".join(BODY) + "\n"),
        key_block("RSA " + "PRIVATE KEY", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES,1\n\n" + "\n".join(BODY) + "\n"),
        key_block("PGP " + "PRIVATE KEY BLOCK", "\nVersion: GnuPG v2\n\n" + "\n".join(BODY) + "\n"),
        key_block("OPENSSH " + "PRIVATE KEY", "\\n" + "\\n".join(BODY) + "\\n"),
        key_block("PRIVATE KEY", '\\n" +\n    "' + '\\n" +\n    "'.join(BODY) + '\\n" +\n    "'),
        key_block("PRIVATE KEY", "\n" + "\n".join(BODY), end=False),
    ],
)  # fmt: skip
def test_a_private_key_is_neither_learnt_nor_shown_in_whatever_form(key: str) -> None:
    text = f"KEY = '''{key}'''\n\nx = 1\n"
    learnt, count = scrub(text)
    assert (learnt.replace("'", "").split(), count) == (["KEY", "=", "scrubbed", "x", "=", "1"], 1)
    secrets = Secrets()
    hidden = secrets.hide(text)
    assert not any(line in hidden for line in BODY)
    assert hidden.count("\n") == text.count("\n")  # an edit names lines
    assert secrets.reveal(hidden) == text


@pytest.mark.parametrize(
    "code",
    [
        'if text.startswith("-----BEGIN {0}-----"):\n    return load_the_key_that_is_in(text)\n',
        'BEGIN, END = "-----BEGIN {0}-----", "-----END {0}-----"\n',
        "# between '-----BEGIN {0}-----' and\n# '-----END {0}-----'\n",
    ],
)
def test_what_names_a_keys_first_and_last_line_holds_none(code: str) -> None:
    text = code.format("RSA " + "PRIVATE KEY")
    assert scrub(text) == (text, 0)
    assert Secrets().hide(text) == text


EDGE = key_block("PRIVATE KEY", "", end=False)
PIECES = [
    "a",
    "A",
    "0",
    "-",
    " ",
    "\n",
    "=",
    "'",
    '"',
    "(",
    "a.b.c(",
    "a1B2",
    "token",
    "token=",
    "token: ",
    "token-",
]
PIECES += [
    "token = '",
    "token: str | ",
    "Password=a1;",
    "://a:",
    "sk-",
    "sk-1-",
    "eyJ-",
    "eyJaaaaaaaaaa.",
    "xoxb-1",
]
PIECES += ["Bearer ", "SG.", "glpat-a-", "a" * 61 + "\n", EDGE, EDGE + "\n" + "a" * 20 + "\n"]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("before", ["", "token = '", EDGE + "\n", "x://"])
def test_time_is_in_proportion_to_the_text_whatever_it_is(piece: str, before: str) -> None:
    text = before + piece * (200_000 // len(piece))
    begun = time.process_time()
    scrub(text)
    Secrets().hide(text)
    assert (
        time.process_time() - begun < 2
    )  # as a rule a twentieth; with a step back at each place it is minutes
