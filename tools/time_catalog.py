"""Time the catalogue: CPU of a fresh process for each thing one may ask of it, best of N.

python tools/time_catalog.py [N]
"""

import subprocess
import sys

ASKS = {
    "load and one model": "c.model('openai/gpt-4o')",
    "load and all providers": "c.providers()",
    "load, a bare name": "c.named('gpt-4o')",
    "load, a family": "c.family(c.model('openai/gpt-4o'))",
    "load, every model as a card": "c.models()",
    "nearest, first": "c.nearest('gtp-4o-mni')",
    "fingerprint": "c.fingerprint",
}
SCRIPT = """
import time, msgspec, tomllib, re, difflib, importlib.resources, hashlib
from waypost.catalog.load import Catalog
start = time.process_time()
c = Catalog.load()
{ask}
first = time.process_time() - start
start = time.process_time()
{ask}
print(first * 1000, (time.process_time() - start) * 1000)
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'ms CPU, best of ' + str(rounds):32} {'first':>8} {'again':>8}")
    for name, ask in ASKS.items():
        runs = [
            subprocess.run([sys.executable, "-c", SCRIPT.format(ask=ask)], capture_output=True, text=True, check=True).stdout
            for _ in range(rounds)
        ]
        first, again = (min(float(run.split()[at]) for run in runs) for at in (0, 1))
        print(f"{name:32} {first:8.2f} {again:8.2f}")


if __name__ == "__main__":
    main()
