"""The editor side: the `diffcoder` command and the language server. Never imports torch."""
