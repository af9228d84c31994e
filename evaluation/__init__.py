"""One file a benchmark, one sandbox, one report."""
