"""One file a capability of the language server."""
