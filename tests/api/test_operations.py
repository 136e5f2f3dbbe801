"""What the operator's endpoints say, without a server."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from waypost.api import operations
from waypost.api.ingress import ANYONE, Ingress, Reached
from waypost.core.health import Health
from waypost.ports import Request, Responder


class Heard:
    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status, self.json = status, msgspec.json.decode(body)


def ready(failing: str | None, *, is_draining: bool = False) -> Any:
    gateway = SimpleNamespace(health=Health(), flights=set(), world=SimpleNamespace(fingerprint="f"))
    ingress = cast(Ingress, SimpleNamespace(gateway=gateway, is_draining=is_draining))
    heard = Heard()
    operations.readyz(lambda: failing, ingress, Reached("r", ANYONE, 0.0), cast(Request, None), cast(Responder, heard))
    return heard


@pytest.mark.parametrize(
    ("failing", "status", "word"),
    [
        (None, 200, "ready"),
        ("ledger: database is locked", 200, "ready"),
        ("journal: No space left on device", 503, "ledger unavailable"),
        ("sync: Input/output error", 503, "ledger unavailable"),
    ],
)
def test_readiness_ends_where_new_work_would_be_refused(failing: str | None, status: int, word: str) -> None:
    heard = ready(failing)
    assert (heard.status, heard.json["status"], heard.json["ledger"]) == (status, word, failing or "ok")


def test_a_draining_gateway_is_not_ready() -> None:
    heard = ready(None, is_draining=True)
    assert (heard.status, heard.json["status"]) == (503, "draining")
