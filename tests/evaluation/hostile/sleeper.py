"""Waits for ever."""

import time

time.sleep(1e6)
