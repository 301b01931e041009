"""
How long ``tokenproxy`` takes to start and how much memory it takes idle: ``python -m benchmarks.footprint``.

Whole processes, seen from outside: ``--help`` and ``healthcheck`` to their end, ``serve`` until ``/readyz`` says yes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.running import free_port

CONFIG = """
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:{port}"
[accounts.books]
provider = "deskera"
client_id = "cl_pub_1234"
client_secret = "literal:nobody"
[routes.books]
upstream = "https://api-staging.deskera.xyz"
account = "books"
"""


def seconds(*words: str) -> float:
    """Wall time of one command, which must succeed."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tokenproxy", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def serve_once() -> tuple[float, float, float]:
    """(seconds to ready, resident MB when idle, seconds of ``healthcheck``)."""
    with tempfile.TemporaryDirectory() as folder:
        config, port = Path(folder, "config.toml"), free_port()
        config.write_text(CONFIG.format(port=port))
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenproxy", "serve", "--config", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            while not ready(port):
                if process.poll() is not None or time.perf_counter() - began > 30:
                    raise SystemExit("serve did not become ready")
                time.sleep(0.005)
            start = time.perf_counter() - began
            time.sleep(1.0)
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            check = seconds("healthcheck", "--config", str(config))
            return start, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, check
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is done (default 7)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    helps = [seconds("--help") for _ in range(chosen.rounds)]
    serves = [serve_once() for _ in range(chosen.rounds)]
    rows = {
        "--help, seconds": helps,
        "serve until ready, seconds": [each[0] for each in serves],
        "serve, idle resident memory, MB": [each[1] for each in serves],
        "healthcheck, seconds": [each[2] for each in serves],
    }
    if chosen.json:
        print(json.dumps(rows))
        return
    print(f"{'':34}{'min':>8}{'median':>8}{'max':>8}")
    for name, values in rows.items():
        print(f"{name:34}{min(values):8.3f}{statistics.median(values):8.3f}{max(values):8.3f}")


if __name__ == "__main__":
    main()
