"""The engine: checkpoint in, tokens out. Knows nothing of LSP, training or evaluation."""

import os

# OpenMP's threads spin while they wait for one another. Beside any other busy process that turns a forward of 40 ms
# into seconds: they spin for about 20 microseconds only, then sleep. Read when torch is loaded, so it is said here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
