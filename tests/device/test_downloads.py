"""Large bodies over HTTP and HTTPS: whole, broken off, damaged, refused; what fails comes over MQTT."""

from __future__ import annotations

import datetime
import hashlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import fedthings as ft
from fedthings.device import downloads as module
from fedthings.device.agent import Agent
from fedthings.device.downloads import Downloads
from fedthings.messages import Chunk, Offer, Want
from fedthings.server.ranges import Ranges
from fedthings.server.service import Service
from fedthings.transport.chunks import Assembly, Source
from fedthings.transport.memory import Hub
from fedthings.transport.transport import Delivery, Inbox, Woken

BODY = hashlib.shake_128(b"body").digest(3_000_001)
TOKEN = "a token"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "body.cbor"
    path.write_bytes(BODY)
    return Source(path)


@pytest.fixture
def ranges(source: Source) -> Iterator[Ranges]:
    assert isinstance(source.body, Path)
    server = Ranges({source.digest.hex(): source.body}, TOKEN, "127.0.0.1")
    yield server
    server.close()


def fetch(offer: Offer, path: Path | None = None, context: ssl.SSLContext | None = None) -> tuple[Assembly, int]:
    """Fetch the body of `offer` as an agent does, and return it with how often it was woken; stop when given up."""
    inbox = Inbox()
    downloads = Downloads("127.0.0.1", inbox, context)
    assembly, woken = Assembly(offer, 1 << 28, path), 0
    while not assembly.done and not assembly.wrong and downloads.can(offer):
        for want in assembly.wants():
            downloads.ask(offer, want, "fed")
        arrival = inbox.get(10)
        if isinstance(arrival, Woken):
            woken += 1
            assembly.retry()
        else:
            assert isinstance(arrival, Delivery) and isinstance(arrival.message, Chunk)
            assembly.add(arrival.message)
    downloads.close()
    return assembly, woken


def test_a_body_comes_by_ranges(source: Source, ranges: Ranges, tmp_path: Path) -> None:
    offer = source.offer("model", http=ranges.place, token=TOKEN)
    assembly, woken = fetch(offer, tmp_path / "here")
    assert assembly.done and woken == 0 and (tmp_path / "here").read_bytes() == BODY


def ask(port: int, path: str, **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers.get("Content-Range", ""), answer.read()
    connection.close()
    return found


def test_only_what_is_there_and_only_with_the_token(source: Source, ranges: Ranges) -> None:
    path, right = "/" + source.digest.hex(), {"Authorization": f"Bearer {TOKEN}"}
    size = len(BODY)
    assert ask(ranges.port, path) == (401, "", b"")
    assert ask(ranges.port, path, Authorization="Bearer anoth\xe9r") == (401, "", b"")
    for other in ("/", "/../broker.json", "/" + "0" * 64, path + "/", "/%2e%2e/state.sqlite"):
        assert ask(ranges.port, other, **right) == (404, "", b"")
    assert ask(ranges.port, path, **right) == (200, "", BODY)
    assert ask(ranges.port, path, Range="bytes=10-19", **right) == (206, f"bytes 10-19/{size}", BODY[10:20])
    assert ask(ranges.port, path, Range=f"bytes={size - 5}-", **right) == (
        206,
        f"bytes {size - 5}-{size - 1}/{size}",
        BODY[-5:],
    )
    assert ask(ranges.port, path, Range=f"bytes={size}-{size + 5}", **right) == (416, "", b"")
    assert ask(ranges.port, path, Range="bytes=5-2", **right) == (416, "", b"")
    assert ask(ranges.port, path, Range="lines=1-2", **right)[0] == 200


def test_a_wrong_token_or_nobody_there_is_given_up(source: Source, ranges: Ranges) -> None:
    for offer in (
        source.offer("model", http=ranges.place, token="another"),
        source.offer("model", http="http:1", token=TOKEN),
    ):
        assembly, woken = fetch(offer)
        assert not assembly.done and woken == module.TRIES
    for place in ("", "http:", "ftp:21", "http:99999", "http:80/x", "//evil:80"):
        assert not Downloads("127.0.0.1", Inbox()).can(source.offer("model", http=place))


def cutting(port: int, after: int, times: int) -> int:
    """Return the port of a proxy that breaks its first connections off, `times` of them, each `after` bytes."""
    door = socket.create_server(("127.0.0.1", 0))

    def pipe(near: socket.socket, far: socket.socket, most: float) -> None:
        with near, far:
            while most > 0 and (data := near.recv(1 << 14)):
                far.sendall(data)
                most -= len(data)
            for end in (near, far):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        left = times
        while True:
            near, _ = door.accept()
            far = socket.create_connection(("127.0.0.1", port))
            left, most = left - 1, after if left > 0 else float("inf")
            for ends in ((near, far, float("inf")), (far, near, most)):
                threading.Thread(target=_quietly, args=(pipe, *ends), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    place: int = door.getsockname()[1]
    return place


def _quietly(function, *arguments) -> None:
    with suppress(OSError):
        function(*arguments)


def test_a_download_that_is_broken_off_goes_on_where_it_was(source: Source, ranges: Ranges) -> None:
    port = cutting(ranges.port, 900_000, 2)
    assembly, woken = fetch(source.offer("model", http=f"http:{port}", token=TOKEN))
    assert assembly.done and assembly.data == BODY and woken == 2


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_stopped_counts_as_no_failure(source: Source, ranges: Ranges, tls: bool, tmp_path: Path) -> None:
    """Its radio goes off, as often as it likes: nothing more comes in, and what is asked for then comes at once."""
    public, private = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    inbox = Inbox()
    downloads = Downloads("127.0.0.1", inbox, ssl.create_default_context(cafile=public))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"{'https' if tls else 'http'}:{silent.getsockname()[1]}"
        offer = source.offer("model", http=place, token=TOKEN)
        for _ in range(module.TRIES):
            downloads.ask(offer, Want(offer.digest, (0,)), "fed")
            end, _ = silent.accept()
            with context.wrap_socket(end, server_side=True) if tls else end as asked:
                assert asked.recv(1)
                downloads.ask(offer, Want(offer.digest, (0,)), "fed")  # this is forgotten too
                downloads.stop()
                while asked.recv(1 << 16):
                    pass  # until it has hung up
        good = source.offer("model", http=ranges.place, token=TOKEN)
        downloads.ask(good, Want(good.digest, (0,)), "fed")
        arrival = inbox.get(5)
        assert isinstance(arrival, Delivery) and isinstance(arrival.message, Chunk)
        assert downloads.can(offer)
    downloads.close()


def test_what_is_damaged_is_found(source: Source, ranges: Ranges) -> None:
    assert isinstance(source.body, Path)
    offer = source.offer("model", http=ranges.place, token=TOKEN)
    source.body.write_bytes(b"?" + BODY[1:])
    assembly, _ = fetch(offer)
    assert not assembly.done and assembly.wrong == 1


def authority(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "cert.pem", directory / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


def test_over_tls_and_only_from_who_is_trusted(source: Source, tmp_path: Path) -> None:
    public, private = authority(tmp_path)
    assert isinstance(source.body, Path)
    ranges = Ranges({source.digest.hex(): source.body}, TOKEN, "127.0.0.1", 0, public, private)
    offer = source.offer("model", http=ranges.place, token=TOKEN)
    assert offer.http.startswith("https:")
    assembly, woken = fetch(offer, context=ssl.create_default_context(cafile=public))
    assert assembly.done and woken == 0
    assembly, woken = fetch(offer)
    assert not assembly.done and woken == module.TRIES
    ranges.close()


class Damaged(dict[str, Path]):
    """The files of a service, each with its last byte changed."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    def get(self, digest: str, default: object = None) -> Path | None:  # type: ignore[override]
        path = self.files.get(digest)
        if path is None:
            return None
        damaged = path.with_name(path.name + ".damaged")
        damaged.write_bytes(path.read_bytes()[:-1] + b"!")
        return damaged


@pytest.mark.parametrize("how", ["http", "nobody there", "damaged"])
def test_an_agent_fetches_a_large_model_so_and_else_over_mqtt(how: str, tmp_path: Path) -> None:
    """The model is the simulator's either way."""
    task = ft.Task(model=ft.mlp(4, 300, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=8))
    federation = ft.Federation(task, ft.fedavg(), ft.Pace(goal=1), seed=2, devices=1)
    rng = np.random.default_rng(1)
    X = rng.normal(0, 1, (30, 4)).astype(np.float32)
    fleet = ft.Fleet.from_arrays(X, (X.sum(1) > 0).astype(np.int64), [0] * 30)
    name, hub = fleet.names[0], Hub()
    service = Service(federation, 2, tmp_path / "run", hub.coordinator("fed"), chunk=64)  # so that it is a large body
    files = Damaged(service.bodies.files) if how == "damaged" else service.bodies.files
    ranges = Ranges(files, TOKEN, "127.0.0.1")
    service.bodies.http, service.bodies.token = "http:1" if how == "nobody there" else ranges.place, TOKEN
    transport = hub.device(name, "fed")
    downloads = Downloads("127.0.0.1", transport.inbox)
    agent = Agent(name, fleet.shard(name), transport, tmp_path / "device", downloads=downloads)
    service.announce()
    end = time.monotonic() + 60
    while not agent.done and time.monotonic() < end:
        for owner, patience in ((service, 0.0), (agent, 0.005)):
            while (arrival := owner.transport.inbox.get(patience)) is not None:
                owner.receive(arrival, time.monotonic())
            owner.wake(time.monotonic())
        if service.done:
            service.announce()
    assert agent.done
    assert np.array_equal(service.engine.rows[2], ft.simulate(federation, fleet, 2).row)
    assert (downloads.bytes_received > 0) == (how != "nobody there")
    downloads.close()
    ranges.close()
    service.close()


def test_neighbours_are_one_request() -> None:
    want = Want(b"", (0, 100, 200, 500, 600), 100)
    assert list(module._spans(want, 650)) == [(0, 300), (500, 650)]
