"""HTTP/2 to providers: the `Upstream` port over `h2`, many exchanges on one connection.

Decides which connection carries a stream, how request bodies follow the peer's windows, and what a GOAWAY or a reset means for each
stream. Over TLS by ALPN, over plain TCP by prior knowledge. A paused sink stops acknowledging its stream, so the provider may send at
most one more stream window (64 KiB). `h2` does the framing in Python, so this costs far more CPU than HTTP/1.1: only for providers that
ask for it.

A stream the peer certainly did not process (REFUSED_STREAM, or above the last id of a GOAWAY; RFC 9113, sections 6.8 and 8.7) is told as
`Loss(sent=False)`.
"""

import asyncio
import ssl
from collections import deque
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from waypost.ports import Loss, Sink, UpstreamRequest
from waypost.wire.dial import DialError, Origin, dial
from waypost.wire.exchange import NO_SINK
from waypost.wire.pool import WARM_CONNECT_S, Shared

CONNECTION_WINDOW = 16 * 1024 * 1024  # streams are held back one by one; the connection must not be by all of them
MAX_STREAMS = 100  # per connection, whatever more the peer would take: the least the RFC recommends to allow
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"host", b"content-length"})


class Stream:
    """The Exchange of one request."""

    __slots__ = ("conn", "id", "is_over", "is_paused", "owed_bytes", "pool", "request", "sent_bytes", "sink", "takes_frames", "timer")

    def __init__(self, pool: "Pool2", request: UpstreamRequest, sink: Sink) -> None:
        self.pool = pool
        self.request = request
        self.sink = sink
        self.conn: Connection2 | None = None
        self.id = 0
        self.sent_bytes = 0  # of the body
        self.owed_bytes = 0  # received, not yet acknowledged
        self.is_paused = False
        self.takes_frames = False  # there are no HTTP chunks in HTTP/2
        self.is_over = False
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.is_over:
            return
        conn = self.conn
        self.over()
        if conn is None:
            self.pool.unwait(self)
        else:
            conn.reset(self)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        if self.owed_bytes and self.conn is not None:
            self.conn.acknowledge(self)

    def lose(self, loss: Loss) -> None:
        if not self.is_over:
            sink = self.sink
            self.over()
            sink.lost(loss)

    def over(self) -> None:
        self.is_over = True
        self.conn = None
        self.sink = NO_SINK


class Connection2(asyncio.Protocol):
    __slots__ = ("gone", "h2", "is_closing", "is_ready", "pool", "since_tick", "streams", "transport")

    transport: asyncio.Transport

    def __init__(self, pool: "Pool2") -> None:
        self.pool = pool
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.streams: dict[int, Stream] = {}
        self.since_tick = pool.shared.tick
        self.is_closing = False  # takes no new streams
        self.is_ready = False  # the peer has said how many streams it takes
        self.gone = False

    @property
    def room(self) -> int:
        if self.is_closing or self.gone or not self.is_ready:
            return 0
        return min(MAX_STREAMS, self.h2.remote_settings.max_concurrent_streams) - len(self.streams)

    def begin(self, stream: Stream) -> None:
        request, origin = stream.request, self.pool.origin
        stream.id = self.h2.get_next_available_stream_id()
        stream.conn = self
        self.streams[stream.id] = stream
        fields = [
            (b":method", request.method.encode()),
            (b":scheme", b"https" if origin.tls else b"http"),
            (b":authority", origin.host_header),
            (b":path", request.path.encode()),
        ]
        fields += [(name.lower(), value) for name, value in request.headers if name.lower() not in HOP_BY_HOP]
        if request.body:
            fields.append((b"content-length", b"%d" % len(request.body)))
        try:
            self.h2.send_headers(stream.id, fields, end_stream=not request.body)
        except ProtocolError as error:
            self._drop(stream, Loss("protocol", str(error), sent=False))
            return
        self._send_body(stream)
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.transport.write(data)

    def reset(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self._reset_id(stream.id)
            self._freed(stream)
            self.flush()

    def acknowledge(self, stream: Stream) -> None:
        owed, stream.owed_bytes = stream.owed_bytes, 0
        try:
            self.h2.acknowledge_received_data(owed, stream.id)
        except ProtocolError:
            return  # the stream has ended meanwhile
        self.flush()

    # --- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.local_settings = Settings(client=True, initial_values={SettingCodes.ENABLE_PUSH: 0})
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            self.flush()
            self._lose_all("protocol", str(error))
            return
        for event in events:
            self._on_event(event)
        if not self.gone:
            self.flush()

    def eof_received(self) -> bool:
        self._lose_all("eof", "the provider closed the connection before the end of its answer")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose_all("reset" if exc else "eof", str(exc or "the provider closed the connection before the end of its answer"))

    # --- events ------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._on_data(event)
            case ResponseReceived():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                    status = int(dict(headers)[b":status"])
                    stream.sink.head(status, [header for header in headers if not header[0].startswith(b":")])
            case StreamEnded():
                self._on_end(event.stream_id)
            case StreamReset():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    refused = event.error_code == ErrorCodes.REFUSED_STREAM
                    self._drop(stream, Loss("reset", f"stream reset by the provider: {event.error_code!s}", sent=not refused))
            case ConnectionTerminated():
                self._on_goaway(event.last_stream_id or 0)
            case WindowUpdated() | RemoteSettingsChanged():
                self.is_ready = self.is_ready or isinstance(event, RemoteSettingsChanged)
                for stream in list(self.streams.values()):
                    self._send_body(stream)
                self.pool.serve_waiting()
            case _:
                pass  # interim answers, trailers, pings: nothing the caller is told of

    def _on_data(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        length = event.flow_controlled_length or 0
        if stream is None:  # cancelled: its bytes still count against the connection's window
            self.h2.acknowledge_received_data(length, event.stream_id)
            return
        stream.owed_bytes += length
        if event.data:
            stream.sink.data(bytes(event.data))
        if stream.owed_bytes and not stream.is_paused and not stream.is_over:
            self.acknowledge(stream)

    def _on_end(self, stream_id: int) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.sent_bytes < len(stream.request.body):
            self._reset_id(stream_id)  # answered before we had sent everything
        self._freed(stream)
        sink = stream.sink
        stream.over()
        sink.end()

    def _on_goaway(self, last_id: int) -> None:
        self.is_closing = True
        for stream in list(self.streams.values()):
            if stream.id > last_id:
                self._drop(stream, Loss("reset", "the provider is closing the connection", sent=False))
        self._close_if_done()

    def _send_body(self, stream: Stream) -> None:
        body = stream.request.body
        while stream.sent_bytes < len(body):
            try:
                room = min(self.h2.local_flow_control_window(stream.id), self.h2.max_outbound_frame_size)
            except ProtocolError:
                return
            if room <= 0:
                return
            piece = body[stream.sent_bytes : stream.sent_bytes + room]
            stream.sent_bytes += len(piece)
            self.h2.send_data(stream.id, piece, end_stream=stream.sent_bytes == len(body))

    # --- endings -----------------------------------------------------------------------------------------------------

    def _reset_id(self, stream_id: int) -> None:
        try:
            self.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        except ProtocolError:
            pass  # closed by the peer meanwhile

    def _drop(self, stream: Stream, loss: Loss) -> None:
        self.streams.pop(stream.id, None)
        self._freed(stream)
        stream.lose(loss)

    def _freed(self, stream: Stream) -> None:
        self.since_tick = self.pool.shared.tick
        if stream.owed_bytes:
            self.acknowledge(stream)
        self._close_if_done()
        self.pool.serve_waiting()

    def _close_if_done(self) -> None:
        if self.is_closing and not self.streams:
            self.close()

    def _lose_all(self, kind: str, detail: str) -> None:
        self.pool.forget(self)
        streams = list(self.streams.values())
        self.streams.clear()
        self.transport.abort()
        for stream in streams:
            stream.lose(Loss(kind, detail, sent=True))

    def close(self) -> None:
        self.pool.forget(self)
        self.transport.close()


class Pool2:
    """Connections to one origin. A new one is dialled when those there are full."""

    __slots__ = ("bound", "conns", "context", "dialing", "is_closed", "origin", "shared", "waiting", "warm")

    def __init__(self, shared: Shared, origin: Origin, context: ssl.SSLContext | None) -> None:
        self.shared = shared
        self.origin = origin
        self.context = context
        self.conns: list[Connection2] = []
        self.waiting: deque[Stream] = deque()
        self.dialing = 0
        self.bound = 1
        self.warm = 0
        self.is_closed = False

    def send(self, request: UpstreamRequest, sink: Sink) -> Stream:
        stream = Stream(self, request, sink)
        self.bound = request.connections
        conn = self._with_room()
        if conn is not None and not self.waiting:
            conn.begin(stream)
        elif self.is_closed or len(self.waiting) >= self.shared.max_waiting:
            self.shared.loop.call_soon(stream.lose, Loss("busy", "too many requests wait for a connection", sent=False))
        else:
            stream.timer = self.shared.loop.call_later(request.connect_s, self._give_up, stream)
            self.waiting.append(stream)
            self._dial_for_waiting()
        return stream

    def serve_waiting(self) -> None:
        while self.waiting:
            conn = self._with_room()
            if conn is None:
                self._dial_for_waiting()
                return
            stream = self.waiting[0]
            self.unwait(stream)
            conn.begin(stream)

    def unwait(self, stream: Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None
        if stream in self.waiting:
            self.waiting.remove(stream)

    def forget(self, conn: Connection2) -> None:
        if not conn.gone:
            conn.gone = True
            if conn in self.conns:
                self.conns.remove(conn)

    def top_up(self) -> None:
        """One warm connection serves `MAX_STREAMS` requests."""
        if self.warm and not self.conns and not self.dialing:
            self._start_dial(WARM_CONNECT_S)

    def sweep(self) -> None:
        for conn in list(self.conns):
            if not conn.streams and self.shared.tick - conn.since_tick > self.shared.idle_ticks:
                conn.close()
        self.top_up()

    def close(self) -> None:
        self.is_closed = True
        self.warm = 0
        for stream in list(self.waiting):
            self.unwait(stream)
            stream.lose(Loss("busy", "the client is closed", sent=False))
        for conn in list(self.conns):
            for stream in list(conn.streams.values()):
                stream.lose(Loss("reset", "the client is closed", sent=True))
            conn.streams.clear()
            conn.close()

    def _with_room(self) -> Connection2 | None:
        for conn in self.conns:
            if conn.room > 0 and not conn.transport.is_closing():
                return conn
        return None

    def _dial_for_waiting(self) -> None:
        coming = self.dialing + sum(not conn.is_ready for conn in self.conns)
        while coming * MAX_STREAMS < len(self.waiting) and len(self.conns) + self.dialing < self.bound and not self.is_closed:
            self._start_dial(self.waiting[coming * MAX_STREAMS].request.connect_s)
            coming += 1

    def _start_dial(self, timeout_s: float) -> None:
        self.dialing += 1
        self.shared.spawn(self._dial(timeout_s))

    async def _dial(self, timeout_s: float) -> None:
        try:
            conn = await dial(
                self.origin,
                lambda: Connection2(self),
                timeout_s=timeout_s,
                context=self.context,
                receive_buffer_bytes=self.shared.receive_buffer_bytes,
            )
            ssl_object = conn.transport.get_extra_info("ssl_object")
            if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
                conn.transport.abort()
                raise DialError("tls", "the provider does not offer HTTP/2")
        except DialError as error:
            self.dialing -= 1
            for stream in list(self.waiting) if not self.dialing else []:
                self.unwait(stream)
                stream.lose(error.loss)
            return
        except BaseException:  # cancelled by close()
            self.dialing -= 1
            raise
        self.dialing -= 1
        if self.is_closed:
            conn.close()
        elif not conn.gone:
            self.conns.append(conn)
            self.serve_waiting()

    def _give_up(self, stream: Stream) -> None:
        self.unwait(stream)
        kind = "connect_timeout" if self.dialing else "busy"
        stream.lose(Loss(kind, f"no connection with room within {stream.request.connect_s:g} s", sent=False))
