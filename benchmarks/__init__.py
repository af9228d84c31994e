"""Speed and faults, measured against peers in one run."""
