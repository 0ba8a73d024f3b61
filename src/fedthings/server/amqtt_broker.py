"""The amqtt broker with our passwords and rules; imported by the broker's own process only."""

from __future__ import annotations

import asyncio
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from fedthings.server.access import Access, matches, topics_of


@dataclass
class Settings:
    """What amqtt hands to the plugins: the file of hashes and the root of the topics."""

    hashes: str = ""
    root: str = ""


class Passwords(BaseAuthPlugin):
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


class Rules(BaseTopicPlugin):
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
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{access.port}"}},
            "plugins": {
                "fedthings.server.amqtt_broker.Passwords": settings,
                "fedthings.server.amqtt_broker.Rules": settings,
            },
        }
    )
    await broker.start()
    await asyncio.Event().wait()
