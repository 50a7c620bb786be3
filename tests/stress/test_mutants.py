"""Small faults in the method are noticed by the fast tests: a sample here, all by `python tests/mutants.py --all`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutants.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_sample_of_faults_is_noticed():
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--sample", "16", "--seed", "1"], capture_output=True, text=True, env=one_thread
    )
    assert done.stdout, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"tried": 16, "survived": []}
