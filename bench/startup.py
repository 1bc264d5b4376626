"""Start-up time of `overlay-vpn run --embedded -- true`, compared with two imports.

    python bench/startup.py [ROUNDS]

Needs user namespaces and /dev/net/tun, and no root. The two alternate, so that both run under the
same load; the result is the ratio of their medians. Exit status 1 if it is above 4.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

LIMIT = 4.0
RUN = [str(Path(sys.executable).with_name("overlay-vpn")), "run", "--embedded", "--", "true"]
IMPORTS = [sys.executable, "-c", "import asyncssh, aioquic"]


def wall_s(argv: list[str]) -> float:
    before = time.perf_counter()
    subprocess.run(argv, check=True)
    return time.perf_counter() - before


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for argv in (RUN, IMPORTS):  # the first time reads files from the disk
        wall_s(argv)
    pairs = [(wall_s(RUN), wall_s(IMPORTS)) for _ in range(rounds)]
    run_s, imports_s = (median(column) for column in zip(*pairs, strict=True))
    ratio = run_s / imports_s
    print(f"medians of {rounds}: run {run_s * 1000:.0f} ms, imports {imports_s * 1000:.0f} ms")
    print(f"ratio {ratio:.2f}, at most {LIMIT:.0f}")
    return 1 if ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
