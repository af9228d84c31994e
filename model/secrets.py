"""What secrets look like in source text, for whoever hides them from a prompt or takes them out of what is learnt.

Regular expressions as text, of which either side makes its own rule. They run over a user's text at every key: no
pattern here takes longer than in proportion to the text, whatever that is. Knows no files and no models.
"""

from __future__ import annotations

# Keys and tokens of well-known services. The first look back is what keeps a long run of any of them from being read
# again at each of its hyphens.
KNOWN = (
    r"(?<![\w-])(?:"
    r"A[KS]IA[0-9A-Z]{16}\b"
    r"|gh[oprsu]_[0-9A-Za-z]{30,}|github_pat_\w{40,}|glpat-[\w-]{20,}"
    r"|xox[abeprs]-[0-9A-Za-z-]{10,}|xapp-\d-[0-9A-Za-z-]{20,}|T(?<=hooks\.slack\.com/services/T)[\w/]{20,}"
    r"|AIza[\w-]{35}|GOCSPX-[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}"
    r"|[rs]k_(?:live|test)_[0-9A-Za-z]{16,}|sk-(?=[\w-]*\d)[\w-]{20,}"
    r"|npm_[0-9A-Za-z]{30,}|pypi-[\w-]{40,}|hf_[0-9A-Za-z]{30,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r"|(?<=[Bb]earer\s)(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*"
    r")"
)

# A private key from its first line to its last, or to where the text breaks off. What names these lines and has no key
# between them is none.
_EDGE = r"[0-9A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
PRIVATE_KEY = (
    rf"-----BEGIN {_EDGE}(?:"
    rf"(?>(?:[^-]|-(?!----)){{0,1000}}?[0-9A-Za-z+/]{{16}})[^-]*+(?:-(?!----)[^-]*+)*+-----END {_EDGE}"
    r"|[\s\\nr\"'`+,]*+[0-9A-Za-z+/=]{40,}+(?:[\s\\nr\"'`+,]*+[0-9A-Za-z+/=]{16,}+)*+)"
)

# What a secret value is called, in any case. The first letter stands by itself: a search skips all others quickly.
NAMES = (
    r"[apstc](?:(?<=p)(?:ass(?:w(?:or)?d|phrase)|wd|rivate[_-]?key)|(?<=s)ecret|(?<=t)oken"
    r"|(?<=a)(?:pi|ccess|ccount)[_-]?key|(?<=c)redential)[\w-]{0,40}+"
)
# What may stand between a name and what it is set to: a quote, and the type that a language declares.
DECLARED = (
    r"['\"]?(?:\[\w*\])?"
    r"(?:[?!]?[ \t]*+:[ \t]*+(?:&?'static )?[\w.&*<>\[\]|? ]{1,60}+(?==)|[ \t]++(?:\[\])?(?:string|bytes?)\b)?"
)
# A value in a connection string or an address's query; it begins with a name and a `=`.
FIELD = r"(?![$@%])[^\s=;&'\"`<>(){}\[\],]{8,}+={0,2}(?=[;&'\"`])"
