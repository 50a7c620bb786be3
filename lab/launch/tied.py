"""Run a Python file as a program that ends with the process that started it, however that ends.

`python tied.py FILE WORDS...`: the other process holds the end of a pipe that is the standard input here.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def take_pipe() -> int:
    """Return the pipe, in whose place the program and what it starts read nothing."""
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    return pipe


def end_with_the_other(pipe: int) -> None:
    """Wait until the pipe is closed, then end this process, and its group where it leads one."""
    os.read(pipe, 1)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    os._exit(1)


if __name__ == "__main__":
    del sys.argv[0]
    program = os.path.abspath(sys.argv[0])
    sys.path[0] = os.path.dirname(program)
    threading.Thread(target=end_with_the_other, args=(take_pipe(),), daemon=True).start()
    runpy.run_path(program, run_name="__main__")
