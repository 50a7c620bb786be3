"""Do a batch in the ComfyUI that runs on this machine, or on a Ray cluster: `python commands/batch jobs.yaml`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:] = [str(HERE.parents[1]), *(entry for entry in sys.path if os.path.abspath(entry or ".") != str(HERE))]

from commands import check  # noqa: E402
from commands.batch import command, options  # noqa: E402
from esd_pack.esd.errors import EsdError  # noqa: E402


def main() -> int:
    """Run the command; what keeps it from beginning is one sentence and an exit code of 1."""
    chosen = options.own_parser().parse_args()
    check.require_packages()
    try:
        return command.run(chosen, lambda: command.starts_at(chosen), lambda: command.own_place(chosen))
    except EsdError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(check.main(main))
