"""Small faults in the method are noticed by the fast tests: a sample; all by `tests/support/mutants.py --all`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support.paths import ROOT
from support.tier import by_tier

SCRIPT = ROOT / "tests" / "support" / "mutants.py"
SAMPLE = by_tier(0, 8, 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_sample_of_faults_is_noticed():
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(SCRIPT), "--sample", str(SAMPLE), "--seed", "1"]
    done = subprocess.run(line, capture_output=True, text=True, env=one_thread, check=False)
    assert done.stdout, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"tried": SAMPLE, "survived": []}
