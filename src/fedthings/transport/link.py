"""One MQTT connection with paho-mqtt, from connect to loss; `mqtt` makes a new one when it is lost.

paho's own reconnection is not used: it has no jitter, cannot be woken, and sends again what its owner has
given up. Nor is its loop, which makes eight calls of the system for each message. Nothing here knows what a message is.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fedthings.errors import SpecError
from fedthings.transport.buffered import Buffered

QUEUE = 256 << 20
"""Bytes that may wait for the broker's acknowledgement; what is beyond is dropped, and said to be."""
_AT_ONCE = 32  # packets that are read before what waits is written


class Address(NamedTuple):
    """Where a broker is: a `mqtt://user:password@host:port` URL in its parts."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the parts of `url` (mqtt:// or mqtts://). Raises SpecError."""
        usual = "use mqtt://user:password@host:1883 or mqtts://"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SpecError(f"the broker's URL is not one ({error}): {usual}") from None
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/"):
            shown = url.rpartition("@")[2] or url  # never the password
            raise SpecError(f"the broker's URL is {shown!r}: {usual}")
        tls = parts.scheme == "mqtts"
        user = None if parts.username is None else unquote(parts.username)
        password = None if parts.password is None else unquote(parts.password)
        return cls(parts.hostname, port or (8883 if tls else 1883), user, password, tls)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def with_login(url: str, user: str, password: str) -> str:
    """Return the broker's `url` with `user` and `password`, unless it names a user, or there is none.

    Raises SpecError for a URL that is none.
    """
    address = Address.parse(url)
    if address.user is not None or not password:
        return url
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "mqtts" if address.tls else "mqtt"
    return f"{scheme}://{quote(user)}:{quote(password, safe='')}@{host}:{address.port}"


class Link:
    """One connection, run by one thread, in which `stands()` and `came(topic, payload)` are called.

    `publish`, `subscribe`, `unsubscribe`, `leave` and `cut` may be called from any thread, one at a time.
    `reads` is subscribed to before `stands()`; `will` is (topic, payload); `timeout`, `keepalive` in seconds.
    """

    def __init__(
        self,
        broker: Address,
        name: str,
        *,
        reads: Iterable[str],
        will: tuple[str, bytes] | None,
        stands: Callable[[], None],
        came: Callable[[str, bytes], None],
        keepalive: int,
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.reason = "the link is lost"
        self._broker = broker
        self._reads = list(reads)
        self._stands = stands
        self._came = came
        self._keepalive = keepalive
        self._timeout = timeout
        self._stood: float | None = None
        self._waiting: deque[tuple[paho.MQTTMessageInfo, int]] = deque()
        self._bytes = 0
        self._bell, self._heard = socket.socketpair()  # wakes the thread where something is to be sent
        self._rung = False
        # A second client of this name replaces the first at the broker: a link that only this end knows to be
        # lost thus ends, with its will, before the new one says Hello.
        self._client = client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True
        client.connect_timeout = timeout
        client.max_inflight_messages = 64
        client.max_queued_messages = 32768  # packet ids end at 65535
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if tls is not None:
            client.tls_set_context(tls)
        if will is not None:
            client.will_set(*will, qos=1)
        client.on_socket_open = _no_delay
        # Set, so that publishing only queues: else the calling thread would write to the socket itself.
        client.on_socket_register_write = _nothing
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.published = self._published

    def run(self) -> float:
        """Connect, and stay until the link is lost; return for how many seconds it stood (0: never)."""
        begun = time.monotonic()
        try:
            self._client.connect(self._broker.host, self._broker.port, self._keepalive)
            while self._turn(self._patience(begun)):
                if self._stood is None and time.monotonic() - begun > self._timeout:
                    self.reason = f"no answer within {self._timeout:g} seconds; is it an MQTT broker?"
                    break
        except (OSError, ValueError) as error:
            self.reason = _remedy(error)
        return 0.0 if self._stood is None else time.monotonic() - self._stood

    def _turn(self, timeout: float) -> bool:
        """Write what is queued, wait for the network at most `timeout` seconds, and read; False at the end."""
        client, good = self._client, MQTTErrorCode.MQTT_ERR_SUCCESS
        connection: Any = client.socket()
        if connection is None or client.loop_write() != good or client.socket() is None:
            return False
        with suppress(OSError):  # the reader meets it too, and tells paho
            connection.flush()
        poll = select.poll()
        poll.register(self._heard, select.POLLIN)
        poll.register(connection, select.POLLIN | (select.POLLOUT if connection.unwritten else 0))
        more = connection.pending()
        ready = dict(poll.poll(0 if more else 1000 * timeout))
        if ready.pop(self._heard.fileno(), 0):
            self._heard.recv(8)
            self._rung = False  # before the next look at what is queued, so that nothing stays behind
        done = good
        if more or any(event & ~select.POLLOUT for event in ready.values()):
            done = client.loop_read()
        return done == good and client.loop_misc() == good

    def publish(self, topic: str, data: bytes, retain: bool) -> bool:
        """Queue `data` for the broker, QoS 1; False where too much waits already, or the link is gone."""
        while self._waiting and self._waiting[0][0].is_published():
            self._bytes -= self._waiting.popleft()[1]
        if self._bytes + len(data) > QUEUE:
            return False
        info = self._client.publish(topic, data, qos=1, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._waiting.append((info, len(data)))
        self._bytes += len(data)
        self._ring()
        return True

    def subscribe(self, names: Iterable[str]) -> bool:
        """Read these topics too, QoS 1."""
        done = self._client.subscribe([(topic, 1) for topic in names])[0]
        self._ring()
        return done == MQTTErrorCode.MQTT_ERR_SUCCESS

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Read these topics no longer."""
        self._client.unsubscribe(list(names))
        self._ring()

    def drain(self, patience: float) -> None:
        """Wait until the broker has acknowledged all, at most `patience` seconds."""
        end = time.monotonic() + patience
        for info, _ in list(self._waiting):
            with suppress(RuntimeError):
                info.wait_for_publish(max(0.0, end - time.monotonic()))

    def leave(self) -> None:
        """Send DISCONNECT: the broker then keeps the will to itself."""
        self._client.disconnect()
        self._ring()

    def free(self) -> None:
        """Close all sockets, when `run` has returned and nothing else is called; the collector would come late."""
        self._client.reinitialise()
        self._bell.close()
        self._heard.close()

    def cut(self) -> None:
        """End the connection now, from whatever thread; `run` then returns."""
        connection: Any = self._client.socket()
        with suppress(OSError, AttributeError):
            connection.shutdown(socket.SHUT_RDWR)

    def _ring(self) -> None:
        """Let the thread see what is queued; one ring does for all until it looks."""
        if not self._rung:
            self._rung = True
            with suppress(OSError):
                self._bell.send(b"\0")

    def _patience(self, begun: float) -> float:
        """Return how long the loop may sleep: until the answer is due, or an eighth of the keep-alive."""
        if self._stood is None:
            return max(0.01, begun + self._timeout - time.monotonic())
        return self._keepalive / 8

    # ------------------------------------------------------------- called by paho

    def _connected(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if not code.is_failure:
            client.subscribe([(topic, 1) for topic in self._reads])
        elif code.value in (0x86, 0x87):  # bad user name or password; not authorised
            user = self._broker.user
            who = f"the user `{user}` or the password" if user else "a client without user and password"
            self.reason = f"it refuses {who}: ask for a token, which `fedthings enrol` makes"
        else:
            self.reason = f"it refuses: {code}"

    def _subscribed(self, client: Any, data: Any, mid: int, codes: Any, properties: Any) -> None:
        if self._stood is not None:
            return
        if any(code.is_failure for code in codes):
            self.reason = "it does not let this user read its topics: check the broker's access rules"
            self.cut()
            return
        self._stood = time.monotonic()
        self._stands()

    def _message(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        self._published(message._topic, bytes(message.payload))

    def _published(self, topic: bytes, payload: bytes) -> None:
        with suppress(UnicodeDecodeError):  # of a topic that is none
            self._came(topic.decode(), payload)


class _Client(paho.Client):
    published: Callable[[bytes, bytes], None]

    def _create_socket(self) -> Any:
        return Buffered(super()._create_socket())

    def _packet_read(self) -> MQTTErrorCode:
        """Take PUBLISHes out of the buffer at once, and answer them: paho copies a payload four times, in pieces."""
        connection: Any = self._sock
        if self._in_packet["command"] == 0:
            for _ in range(_AT_ONCE):
                found = connection.published()
                if found is None:
                    break
                topic, mid, payload = found
                self.published(topic, payload)
                connection.acknowledge(mid)
            else:
                return MQTTErrorCode.MQTT_ERR_AGAIN  # what waits to be written has its turn
            if connection.partial:
                return MQTTErrorCode.MQTT_ERR_AGAIN
        return super()._packet_read()


def _no_delay(client: Any, data: Any, opened: Any) -> None:
    # Without it the second of two small messages waits for the first's acknowledgement (Nagle, 40 ms).
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _nothing(client: Any, data: Any, opened: Any) -> None:
    pass


def _remedy(error: Exception) -> str:
    """Return what went wrong when connecting, and what to do."""
    if isinstance(error, socket.gaierror):
        return "there is no host of this name: check the URL, or the network's name server"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the broker running, and the port right?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): check host name and authority"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason}); does this port speak mqtts?"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the link is lost"
    if isinstance(error, TimeoutError):
        return "no answer; is the host up, and does a firewall let the port through?"
    return str(error) or type(error).__name__
