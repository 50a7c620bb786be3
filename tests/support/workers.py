"""How two processes share the tests: by file, and one of them has the server and the browser."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class ByFile(LoadScopeScheduling):
    """Gives a file to one worker; the room e2e counts as one file, so that one server and one browser do for it."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file
