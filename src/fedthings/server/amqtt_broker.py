"""The amqtt broker with our passwords and rules; imported by the broker's own process only."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from fedthings.identity.passwords import matches
from fedthings.server.access import Access, topics_of
from fedthings.server.tls import BROKER, FOLDER


@dataclass
class Settings:
    """What amqtt hands to the plugins: the file of hashes and the root of the topics."""

    hashes: str = ""
    root: str = ""


class Passwords(BaseAuthPlugin):  # type: ignore[misc]
    """Let in whom the file of hashes names; it is read again when it has changed."""

    Config = Settings

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._path = Path(self.config.hashes)
        self._read = (0, 0)
        self._known: dict[str, str] = {}

    async def authenticate(self, *, session: Session) -> bool | None:
        """Return whether user and password are right, and the will is one that the user may write."""
        stat = self._path.stat()
        if (stat.st_mtime_ns, stat.st_ino) != self._read:
            lines = self._path.read_text().splitlines()
            self._known = dict(line.split(":", 1) for line in lines)
            self._read = (stat.st_mtime_ns, stat.st_ino)
        line = self._known.get(session.username or "")
        if line is None or not matches(session.password or "", line):
            return False
        # amqtt asks no rules about a will: without this a device could speak as another by dying.
        _, writes = topics_of(self.config.root, session.username)
        return not session.will_flag or any(_covers(rule, session.will_topic) for rule in writes)


class Rules(BaseTopicPlugin):  # type: ignore[misc]
    """Each user reads and writes only its own topics (access.topics_of)."""

    Config = Settings

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """Return whether the session's user may do `action` with `topic`."""
        if session is None or not session.username or not topic:
            return False
        reads, writes = topics_of(self.config.root, session.username)
        return any(_covers(rule, topic) for rule in (writes if action == Action.PUBLISH else reads))


def _covers(rule: str, topic: str) -> bool:
    """Return whether all that `topic` (or filter) names is named by `rule`, which may end in /#."""
    return topic == rule or (rule.endswith("/#") and topic.startswith(rule[:-1]))


class Steady(dict[str, Any]):
    """Subscriptions that may change while they are gone through.

    amqtt waits in the middle of that: a message then went to nobody ("changed size during iteration").
    """

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))

    def items(self) -> Any:
        """Return what there is now."""
        return [(topic, list(sessions)) for topic, sessions in super().items()]


class Quiet(Broker):  # type: ignore[misc]
    """A broker that hands retained messages to those who asked for them, and forgets what nobody reads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._subscriptions = Steady()

    def _del_subscription(self, a_filter: str, session: Session) -> int:
        deleted: int = super()._del_subscription(a_filter, session)
        if not self._subscriptions.get(a_filter, True):  # each model has topics of its own: they would pile up
            del self._subscriptions[a_filter]
        return deleted

    async def _del_all_subscriptions(self, session: Session) -> None:
        for topic in self._subscriptions:
            self._del_subscription(topic, session)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        # amqtt calls this for everybody's subscriptions whenever anybody connects.
        if any(known.client_id == session.client_id for known, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


def run(access: Access) -> None:
    """Serve until the process ends."""
    # amqtt tells a lot, at every level, and warns of its own past.
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("transitions").setLevel(logging.ERROR)
    asyncio.run(_serve(access))


async def _serve(access: Access) -> None:
    settings = {"hashes": str(access.hashes), "root": access.root}
    host = f"[{access.host}]" if ":" in access.host else access.host
    broker = Quiet(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{access.port}", **_tls(access)}},
            "plugins": {
                "fedthings.server.amqtt_broker.Passwords": settings,
                "fedthings.server.amqtt_broker.Rules": settings,
            },
        }
    )
    await broker.start()
    await asyncio.Event().wait()


def _tls(access: Access) -> dict[str, Any]:
    if not access.tls:
        return {}
    folder = access.home / FOLDER / BROKER
    return {"ssl": True, "certfile": f"{folder}.pem", "keyfile": f"{folder}.key"}
