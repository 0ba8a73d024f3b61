"""Who may do what at a mosquitto that is not ours: as its files, or as JSON for its dynamic security plugin."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from fedthings.identity.files import private
from fedthings.identity.passwords import hashed, parts
from fedthings.lifeline import alone
from fedthings.server import devices
from fedthings.server.access import Access, topics_of
from fedthings.transport.topics import COORDINATOR, check_root

DYNAMIC = "dynamic-security.json"


def write(directory: Path, kind: str, root: str = "") -> list[Path]:
    """Write the rights of all on the roll of `directory`, as "file" or "dynsec"; return the files, of mode 0600.

    Raises StoreError, also while a coordinator runs that has a broker of its own, whose files these are.
    """
    with devices.opened(directory) as roll:
        logins = roll.read().logins
    access = Access(directory)
    access.root = check_root(root or access.root)
    word = access.passwords.get(COORDINATOR, "")
    access.admit(logins)
    if kind == "file":
        if word and access.port:
            with alone(directory, "the run directory"):
                access.write()
        else:
            access.write()
        return [access.hashes, access.rules]
    if not word:
        access.write()  # the coordinator's password is drawn once
    path = directory / DYNAMIC
    private(path, json.dumps(dynamic(access), indent=1) + "\n")
    return [path]


def dynamic(access: Access) -> dict[str, Any]:
    """Return the configuration of mosquitto's dynamic security plugin: a role for each, with its own topics."""
    shared, _ = topics_of(access.root, "")
    everyone = [acl for topic in shared[2:] for acl in _reads(topic)]
    roles = [{"rolename": "everyone", "acls": everyone}]
    clients = []
    for user, word in sorted(access.passwords.items()):
        known = parts(word) or parts(hashed(word))
        assert known is not None
        rounds, salt, key = known
        reads, writes = topics_of(access.root, user)
        own = reads if user == COORDINATOR else reads[:2]
        acls = [acl for topic in own for acl in _reads(topic)]
        acls += [{"acltype": "publishClientSend", "topic": topic, "priority": 0, "allow": True} for topic in writes]
        roles.append({"rolename": user, "acls": acls})
        clients.append(
            {
                "username": user,
                "password": base64.b64encode(key).decode(),
                "salt": base64.b64encode(salt).decode(),
                "iterations": rounds,
                "roles": [{"rolename": user}, {"rolename": "everyone"}],
            }
        )
    nothing = dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe"), False) | {"unsubscribe": True}
    return {"defaultACLAccess": nothing, "clients": clients, "groups": [], "roles": roles}


def _reads(topic: str) -> list[dict[str, Any]]:
    kinds = ("subscribePattern", "publishClientReceive")
    return [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind in kinds]
