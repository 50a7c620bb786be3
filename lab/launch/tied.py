"""Run a Python file as a program that ends with the process that started it, however that ends.

`python tied.py FILE WORDS...`: the other process holds the end of a pipe that is the standard input here.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def end_with_the_other() -> None:
    """Wait until the pipe is closed, then end this process, and its group where it leads one."""
    os.read(0, 1)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    os._exit(1)


if __name__ == "__main__":
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    threading.Thread(target=end_with_the_other, daemon=True).start()
    runpy.run_path(sys.argv[0], run_name="__main__")
