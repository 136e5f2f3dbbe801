"""What the outside tests stand on: `waypost serve` as a process of its own, a plain HTTP client, and the reading of what it answered.

Nothing here knows the gateway's inside. The client is the standard library's, so that it shares no code with what is tested.
"""

import csv
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SECRET = "sk-e2e-Zq7-not-for-any-answer"  # the providers' key: must never be seen by a caller
WIRES = ("openai-chat", "anthropic-messages", "gemini")
HOME = {"openai-chat": "/v1", "anthropic-messages": "", "gemini": "/v1beta"}
ASKED = "Tell me of the bridge."


class Answer(NamedTuple):
    """`broken`: the transport ended without saying that the body was whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.json["choices"][0]["message"]["content"] or ""

    @property
    def finish(self) -> str | None:
        return self.json["choices"][0]["finish_reason"]

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked to have OpenAI's form."""
        error = self.json["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), error
        assert isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str), error
        return error


class Told(NamedTuple):
    """A stream as a caller reads it."""

    text: str
    finish: str | None
    error: dict[str, Any] | None
    done: bool
    usage: dict[str, Any] | None
    after_error: int  # events after the error: there may be none


def told(body: bytes) -> Told:
    text, finish, error, done, usage, after = "", None, None, False, None, 0
    for event in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            continue
        if error is not None:
            after += 1
        if data == b"[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        if chunk.get("error"):
            error = chunk["error"]
            continue
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or []:
            text += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
    return Told(text, finish, error, done, usage, after)


def request(
    port: int,
    path: str = "/v1/chat/completions",
    body: bytes | dict[str, Any] | None = None,
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
) -> Answer:
    """One request on a connection of its own."""
    began = time.monotonic()
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body=raw, headers={"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        broken, got = False, b""
        try:
            got = answer.read()
        except http.client.IncompleteRead as partial:
            got, broken = partial.partial, True
        except ConnectionError:
            broken = True
        heads = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, heads, got, broken, time.monotonic() - began)
    finally:
        connection.close()


def chat(model: str, *, stream: bool = False, marker: str = "", **fields: Any) -> dict[str, Any]:
    """A chat body; `marker` is how the simulator knows the request again."""
    text = f"{ASKED} [[{marker}]]" if marker else ASKED
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class Serving:
    """`waypost serve` in its own process and directory. Use as a context manager."""

    def __init__(self, config: str | None, directory: Path, *arguments: str, env: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (directory / "waypost.toml").write_text(config)
        clean = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "waypost", "serve", "--port", str(port), *arguments],
            cwd=directory,
            env={**clean, "SIM_KEY": SECRET, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if "serves OpenAI's API at http" in line:
                self.port = int(line.rsplit(":", 1)[1].split("/")[0])
            if "waypost report" in line:  # the greeting's last line
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> "Serving":
        if not self._ready.wait(30) or not self.port:
            self.process.kill()
            raise AssertionError("waypost serve did not start: " + "".join(self.said))
        eventually(self._answers, "the port answers")
        return self

    def _answers(self) -> bool:
        try:
            return request(self.port, "/livez", method="GET").status == 200
        except OSError:
            return False

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    @property
    def text(self) -> str:
        return "".join(self.said)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout_s: float = 15.0) -> int:
        """Exit code, once it has ended."""
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def ask(self, body: bytes | dict[str, Any], **how: Any) -> Answer:
        return request(self.port, body=body, **how)

    def get(self, path: str, **how: Any) -> Answer:
        return request(self.port, path, method="GET", **how)

    def rows(self, request_id: str = "") -> list[dict[str, str]]:
        rows = report(self.directory)
        return [row for row in rows if row["request_id"] == request_id] if request_id else rows

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def report(directory: Path) -> list[dict[str, str]]:
    """Every row of the ledger, as `waypost report` tells it."""
    command = [sys.executable, "-m", "waypost", "report", "--attempts", "--format", "csv", "--db", str(directory / "waypost.db")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return list(csv.DictReader(io.StringIO(out)))


def command(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A waypost command that ends by itself."""
    run = [sys.executable, "-m", "waypost", *arguments]
    return subprocess.run(run, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=30, check=False)


def provider(name: str, origin: str, wire: str = "openai-chat", *, key: str = "env:SIM_KEY", extra: str = "") -> str:
    """A provider's section. Every name has a place of its own at the simulator, so that its records can be told apart."""
    return f'[providers.{name}]\nwire = "{wire}"\nbase_url = "{origin}{HOME[wire]}"\napi_key = "{key}"\n{extra}\n'


def model(name: str, script: str, *, extra: str = "") -> str:
    return f'[[models]]\nname = "{name}"\nupstream = "{script}"\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n{extra}\n'


def route(name: str, *order: str) -> str:
    return f"[routes.{name}]\norder = {json.dumps(order)}\n"


def free_port() -> int:
    """A port that nobody listens on, now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def eventually(is_so: Any, what: str, timeout_s: float = 10.0) -> None:
    """Wait until it is so; fail by name when it never is."""
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up_at, f"never: {what}"
        time.sleep(0.01)
