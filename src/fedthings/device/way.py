"""The way of a device, gateway or helper to its coordinators: who it is, which brokers, and with which login there."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedthings.device.enrolment import enrol
from fedthings.device.identity import Identity, Standing, trust
from fedthings.errors import SpecError, TransportError
from fedthings.identity import tokens
from fedthings.identity.tokens import Token
from fedthings.lifeline import Ending
from fedthings.privacy.signing import Signing
from fedthings.transport.link import Address, with_login
from fedthings.transport.mqtt import BACKOFF, NEXT_AFTER, RETURN, MqttTransport
from fedthings.transport.transport import Inbox

_SOON = 10.0  # seconds within which a broker lets in whom its coordinator has just let in


class Way:
    """Who `name` is in `directory`, and how it is linked. Nothing is read or made before `enrolled`.

    `brokers` are URLs, the first is its own; none: those of the tokens. `passwords` are for brokers that have logins of
    their own, one for all or each. `certificate` and `key` are files, `ca` is PEM. Raises SpecError, DataError.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        brokers: Sequence[str] = (),
        given: Sequence[Token] = (),
        passwords: Sequence[str] = (),
        *,
        root: str = "",
        ca: str = "",
        certificate: str = "",
        key: str = "",
    ) -> None:
        self.name, self.directory = name, directory
        self._brokers, self._given, self._passwords = tuple(brokers), tuple(given), tuple(passwords)
        self._root, self._ca, self._own = root, ca, (certificate, key)
        for url in self._brokers:
            Address.parse(url)
        if brokers:
            _match(given, "tokens", brokers)
            _match(passwords, "password files", brokers)

    def enrolled(
        self,
        ending: Ending,
        patience: float,
        inbox: Inbox | None = None,
        *,
        next_after: float = NEXT_AFTER,
        go_back: float = RETURN,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> Callable[[], MqttTransport] | None:
        """Enrol where that is still to be done, and return what makes a link; None where `ending` came first.

        Raises StoreError, SpecError, TransportError.
        """
        identity = Identity(self.directory, self.name, self._given)
        brokers = self._brokers or tuple(standing.broker for standing in identity.standings)
        if not all(brokers):
            raise SpecError("the token names no broker: name it with --broker mqtt://HOST:PORT")
        _match(self._passwords, "password files", brokers)
        tls = self._tls(identity) if any(Address.parse(url).tls for url in brokers) else None
        root = self._root or _root([identity.standing(place) for place in range(len(brokers))])
        fresh = False
        for place, url in enumerate(brokers):
            standing = identity.standing(place)
            fresh = fresh or not standing.enrolled
            enrol(identity, standing, self._login(place, url), root, ending, tls=tls, on_news=on_news)
            if ending:
                return None
        urls = [
            with_login(self._login(place, url), self.name, identity.standing(place).password)
            for place, url in enumerate(brokers)
        ]
        seal, backoff, both = identity.seal(), (min(BACKOFF[0], patience), patience), inbox or Inbox()
        end = time.monotonic() + _SOON if fresh else 0.0

        def link() -> MqttTransport:
            while True:
                try:
                    return MqttTransport(
                        urls,
                        self.name,
                        root=root,
                        backoff=backoff,
                        tls=tls,
                        inbox=both,
                        seal=seal,
                        next_after=next_after,
                        go_back=go_back,
                    )
                except TransportError:
                    if ending or time.monotonic() > end:
                        raise
                time.sleep(0.1)  # only just enrolled: the broker is told of it

        return link

    def signing(self) -> Signing:
        """Return what signs for this device, once it is enrolled, what is passed on to others. Raises StoreError."""
        return Identity(self.directory, self.name).signing()

    def _login(self, place: int, url: str) -> str:
        """Return `url` with the login of a broker that has its own, where there is one."""
        words = self._passwords
        word = words[place] if len(words) > 1 else words[0] if words else ""
        return with_login(url, self.name, word)

    def _tls(self, identity: Identity) -> ssl.SSLContext:
        ca = self._ca or "\n".join(standing.ca for standing in identity.standings if standing.ca)
        return trust(ca, *self._own)


def _match(given: Sequence[object], what: str, brokers: Sequence[str]) -> None:
    """Raise SpecError unless there is one for all `brokers`, or for each."""
    if len(given) > 1 and len(given) != len(brokers):
        raise SpecError(f"there are {len(given)} {what} for {len(brokers)} brokers: give one for all or each")


def _root(standings: Sequence[Standing]) -> str:
    """Return the first level of the topics, which is one at all brokers. Raises SpecError."""
    roots = {standing.root: standing.id for standing in standings}
    if len(roots) > 1:
        shown = " and ".join(f"{root!r} ({token})" for root, token in roots.items())
        raise SpecError(f"the tokens are for the topic roots {shown}: a device has one, name it with --root")
    return standings[0].root


def named(name: str | None, files: Sequence[str]) -> tuple[str, list[Token]]:
    """Return what this device is called, by `name` or by its tokens, which are read from `files`.

    Raises DataError, SpecError.
    """
    given = [tokens.read(file) for file in files]
    names = {token.name for token in given if token.name} | ({name} if name else set())
    if len(names) > 1:
        raise SpecError(f"the tokens are for {' and '.join(sorted(names))}: a device has one name")
    if not names:
        raise SpecError(
            "this token is for any device: give it a name with --name"
            if given
            else "give the device's --token; or, once it has enrolled, its --name"
        )
    return names.pop(), given
