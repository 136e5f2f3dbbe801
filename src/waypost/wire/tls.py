"""TLS: contexts for both sides, and session resumption for the client.

Neither asyncio nor uvloop lets a caller name the session to resume, but both make their SSL object by calling `wrap_bio` on the context
they are given. So the client's context remembers one session per host name and offers it there: a re-dial then costs no certificate
chain and no signature. A session resumes only within the context that made it, so a resumed connection was verified under the same
rules. TLS 1.3 tickets come after the handshake: they are taken when the first answer has been read.
"""

import ssl
from pathlib import Path
from typing import Any


class ResumingContext(ssl.SSLContext):
    """Verifying client context. `sessions` is bounded by the host names dialled, which come from configuration."""

    sessions: dict[str, ssl.SSLSession]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self.sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def client_context(*alpn: str, ca_file: str | Path | None = None) -> ResumingContext:
    """Verifies against the system's authorities, or `ca_file` alone. Loading them takes tens of milliseconds: do it once."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # this protocol verifies certificate and host name
    context.sessions = {}
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(list(alpn))
    return context


def server_context(cert_file: str | Path, key_file: str | Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert_file, key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def keep_session(context: ssl.SSLContext | None, ssl_object: Any, host: str) -> None:
    """Remember the session of a connection that has carried an answer, for the next dial of `host`."""
    if isinstance(context, ResumingContext) and isinstance(ssl_object, ssl.SSLObject):
        session = ssl_object.session
        if session is not None and session.has_ticket:
            context.sessions[host] = session
