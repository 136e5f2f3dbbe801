"""Operations: is it alive, is it ready, what does it count. Open to anybody who reaches the port; says nothing of callers."""

from collections.abc import Callable

import msgspec

from waypost import __version__
from waypost.adapters.telemetry import CONTENT_TYPE, Telemetry
from waypost.api.ingress import Ingress, Reached
from waypost.core.faults import Refused
from waypost.flight import JSON
from waypost.ports import Request, Responder


def root(ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    """GET / and HEAD /: some clients look whether anybody is there."""
    hello = {"name": "waypost", "version": __version__, "openai_base_url": "/v1", "models": "/v1/models"}
    responder.answer(200, [JSON], msgspec.json.encode(hello))


def livez(ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    responder.answer(200, [JSON], b'{"status":"alive"}')


def readyz(failing: Callable[[], str | None], ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    """503 while draining or while the journal takes no records, so that a load balancer sends new work elsewhere; in any case what the
    ledger suffers from, and how each deployment in use stands. `failing` names the ledger's first fault."""
    gateway = ingress.gateway
    if ingress.is_draining:
        responder.answer(503, [JSON, (b"retry-after", b"5")], b'{"status":"draining"}')
        return
    views = gateway.health.snapshot(reached.started_s)
    fault = failing()
    is_stuck = fault is not None and fault.startswith(("journal", "sync"))  # other faults delay rows and refuse nobody
    body = {
        "status": "ledger unavailable" if is_stuck else "ready",
        "ledger": fault or "ok",
        "requests_in_flight": len(gateway.flights),
        "config": gateway.world.fingerprint,
        "targets": [
            {
                "deployment": v.deployment,
                "standing": v.standing,
                "why": v.why,
                "for_s": None if v.until_s is None else round(max(0.0, v.until_s - reached.started_s), 3),
                "in_flight": v.in_flight,
                "limit": v.limit,
                "alarm": v.alarm,
            }
            for v in views
        ],
    }
    responder.answer(503 if is_stuck else 200, [JSON], msgspec.json.encode(body))


def metrics(telemetry: Telemetry, ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    if not ingress.gateway.world.config.telemetry.prometheus:
        raise Refused(404, "metrics_off", "Metrics are off (telemetry.prometheus = false).", error_type="not_found")
    responder.answer(200, [(b"content-type", CONTENT_TYPE)], telemetry.render())
