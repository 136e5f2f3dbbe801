"""kill -9 of the whole gateway: `waypost serve` under mixed load is killed at random moments, read at once, and started again.

    python tests/chaos/kill9_serve.py --rounds 20

Callers note what they completely received. Right after each kill, before anybody recovers anything, `waypost report` must hold each of
these answers with exactly one `ok` row (and each clean error with all its attempts), no row twice, and a row of every stream that was cut.
"""

import argparse
import csv
import http.client
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from waypost.sim.provider import Simulator
from waypost.sim.texts import verify

CALLERS = 12
ASKS = (  # model, stream
    ("lab/quick", False),
    ("lab/quick", True),
    ("far/quick", True),
    ("far/quick", False),
    ("lab/long", True),
    ("lab/long", True),
    ("shaky", True),
    ("shaky", False),
    ("lab/cut", True),
    ("lab/down", False),
)
SCRIPTS = {"quick": "m.ok-g2-n20", "long": "m.g10-n60", "cut": "m.cut-8-g5-n20", "down": "m.fail-503", "half": "m.fail-503-p0.5-g2-n20"}


class Seen(NamedTuple):
    """What a caller knows of one request. `kind`: whole, error (a clean one, whole), broken (begun, not whole)."""

    request_id: str
    attempts: int
    kind: str


class Figures(NamedTuple):
    rounds: int
    answers: int  # completely received
    errors: int
    broken: int  # begun and not whole: cut by the kill, or by a provider
    lost: int  # answers without their `ok` row
    doubled: int  # rows told twice, or two `ok` rows of one request
    attempts_missing: int
    broken_without_row: int
    changed: int  # rows that another life of the gateway told differently, or no more

    @property
    def is_proof(self) -> bool:
        return (
            self.answers > 0
            and self.broken > 0
            and self.lost + self.doubled + self.attempts_missing + self.broken_without_row + self.changed == 0
        )


class Callers:
    """Threads that ask until the gateway is gone."""

    def __init__(self, port: int, seed: int) -> None:
        self.seen: list[Seen] = []
        self._port = port
        self._threads = [threading.Thread(target=self._ask_on, args=(random.Random(seed + n),)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> list[Seen]:
        for thread in self._threads:
            thread.join(30)
        return self.seen

    def _ask_on(self, draw: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            while True:
                self._ask(connection, *draw.choice(ASKS))
        except (OSError, http.client.HTTPException):
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, model: str, stream: bool) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "Tell me."}], "stream": stream}
        connection.request("POST", "/v1/chat/completions", body=json.dumps(body), headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        request_id, attempts = answer.headers["x-request-id"], int(answer.headers["x-waypost-attempts"])
        try:
            kind = _kind(answer.status, answer.read(), stream)
        except (OSError, http.client.HTTPException):
            self.seen.append(Seen(request_id, attempts, "broken"))
            raise
        self.seen.append(Seen(request_id, attempts, kind))


def _kind(status: int, body: bytes, stream: bool) -> str:
    if status != 200:
        return "error" if "error" in json.loads(body) else "broken"
    if not stream:
        return "whole" if verify(json.loads(body)["choices"][0]["message"]["content"]) else "broken"
    text = ""
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            text += "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:]).get("choices") or [])
    return "whole" if body.rstrip().endswith(b"data: [DONE]") and verify(text) else "broken"


def prove(rounds: int, *, seed: int, directory: Path) -> Figures:
    draw = random.Random(seed)
    seen: list[Seen] = []
    told: dict[tuple[str, str], dict[str, str]] = {}
    doubled = changed = 0
    with Simulator(seed=seed).run_in_thread() as sim:
        (directory / "waypost.toml").write_text(_config(sim))
        for _ in range(rounds):
            gateway, port = _serve(directory)
            callers = Callers(port, draw.randrange(10**6))
            time.sleep(draw.uniform(0.1, 0.9))
            gateway.kill()
            gateway.wait()
            assert gateway.stderr is not None
            gateway.stderr.close()
            seen += callers.join()
            rows = _report(directory)  # of a dead gateway: what it had not fed is still in its journal
            copies = Counter((row["request_id"], row["attempt"]) for row in rows)
            doubled += sum(count - 1 for count in copies.values())
            now = {(row["request_id"], row["attempt"]): row for row in rows}
            changed += sum(now.get(key) != row for key, row in told.items())
            told = now
    return _judge(seen, list(told.values()), rounds=rounds, doubled=doubled, changed=changed)


def _judge(seen: list[Seen], rows: list[dict[str, str]], *, rounds: int, doubled: int, changed: int) -> Figures:
    count = Counter(row["request_id"] for row in rows)
    ok = Counter(row["request_id"] for row in rows if row["outcome"] == "ok")
    whole = [one for one in seen if one.kind == "whole"]
    return Figures(
        rounds=rounds,
        answers=len(whole),
        errors=sum(one.kind == "error" for one in seen),
        broken=sum(one.kind == "broken" for one in seen),
        lost=sum(ok[one.request_id] == 0 for one in whole),
        doubled=doubled + sum(n > 1 for n in ok.values()),
        attempts_missing=sum(count[one.request_id] != one.attempts for one in seen if one.kind in ("whole", "error")),
        broken_without_row=sum(count[one.request_id] == 0 for one in seen if one.kind == "broken"),
        changed=changed,
    )


def _config(sim: Simulator) -> str:
    parts = ["[retries]\nbudget_ratio = 1.0\n", '[routes.shaky]\norder = ["lab/half", "far/quick"]\n']
    for name, wire, home in (("lab", "openai-chat", "/v1"), ("far", "anthropic-messages", "")):
        parts.append(f'[providers.{name}]\nwire = "{wire}"\nbase_url = "{sim.box.origin}/p/{name}{home}"\napi_key = "none"\n')
        for model, script in SCRIPTS.items():
            prices = "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0"
            parts.append(f'[[models]]\nname = "{name}/{model}"\nupstream = "{script}"\n{prices}\n')
    return "\n".join(parts)


def _serve(directory: Path) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "waypost", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    for line in process.stderr:
        if "serves OpenAI's API at http" in line:
            # Nobody reads what it says from here on; a gateway in order says little, far less than a pipe holds.
            return process, int(line.rsplit(":", 1)[1].split("/")[0])
    raise RuntimeError(f"waypost serve did not start (exit {process.wait()})")


def _report(directory: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "waypost", "report", "--attempts", "--format", "csv", "--db", str(directory / "waypost.db")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return list(csv.DictReader(io.StringIO(out)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = prove(args.rounds, seed=args.seed, directory=Path(directory))
    print(f"seed {args.seed}:", ", ".join(f"{name} {value}" for name, value in figures._asdict().items()))
    return 0 if figures.is_proof else 1


if __name__ == "__main__":
    sys.exit(main())
