"""The coordinator's side of SecAgg+: from shares to secrets, and from these to what hides the sum of a set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedthings.errors import WireError
from fedthings.messages import Keys
from fedthings.privacy import masks
from fedthings.privacy.keys import private, public_of
from fedthings.privacy.secagg import Scope, own_seed, pair_seed, sign
from fedthings.privacy.shamir import join
from fedthings.protocol.events import Ticket
from fedthings.vector import Payload


class Set(NamedTuple):
    """A set of devices: the `keys` of each, its neighbours, in order, and how many shares give a secret.

    `masked` are those whose masks the others have added: they have sent shares.
    """

    scope: Scope
    keys: Mapping[Ticket, Keys]
    neighbours: Mapping[Ticket, tuple[Ticket, ...]]
    threshold: int
    masked: Collection[Ticket]

    def asked(self, ticket: Ticket, alive: Collection[Ticket]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers of the neighbours of `ticket` whose reports are in the sum, and of those whose are not."""
        there = [(number, other) for number, other in enumerate(self.neighbours[ticket]) if other in self.masked]
        return (
            tuple(number for number, other in there if other in alive),
            tuple(number for number, other in there if other not in alive),
        )


def secrets(the: Set, alive: Collection[Ticket], answers: Mapping[Ticket, Sequence[bytes]]) -> dict[Ticket, bytes]:
    """Return the secret of each device that masks: of those `alive` the seed of the own mask, of others the key.

    `answers` are the shares of each device that has answered. Empty as long as they are too few. Raises WireError where
    they are wrong.
    """
    found: dict[Ticket, bytes] = {}
    if not all(_enough(the, ticket, alive, answers) for ticket in the.masked):
        return found  # seen before anything is joined, since each answer asks
    place = {
        ticket: {other: number for number, other in enumerate(the.neighbours[ticket])}
        for ticket in {*answers, *the.masked}
    }
    for ticket in the.masked:
        held = [
            (number, answers[other][place[other][ticket]])
            for number, other in enumerate(the.neighbours[ticket])
            if other in answers and answers[other][place[other][ticket]]
        ]
        if ticket in alive and ticket in answers:
            held.append((len(the.neighbours[ticket]), answers[ticket][-1]))
        if ticket not in alive and not any(other in alive for other in the.neighbours[ticket]):
            continue  # it has no mask with any of them
        if len(held) < the.threshold:
            return {}
        numbers, shares = zip(*held[: the.threshold], strict=True)
        found[ticket] = join(shares, numbers)
        if ticket not in alive and public_of(found[ticket]) != the.keys[ticket].mask:
            raise WireError("wrong shares", f"those of {ticket.device} do not give its key")
    return found


def _enough(the: Set, ticket: Ticket, alive: Collection[Ticket], answers: Mapping[Ticket, Sequence[bytes]]) -> bool:
    """Return whether enough have answered who may hold a share of the secret of `ticket`, or none is needed."""
    near = the.neighbours[ticket]
    if ticket not in alive and not any(other in alive for other in near):
        return True
    own = ticket in alive and ticket in answers
    return sum(other in answers for other in near) + own >= the.threshold


def masking(the: Set, alive: Collection[Ticket], secrets: Mapping[Ticket, bytes], arrays: Payload) -> None:
    """Take off the rows of `arrays`, in place, all masks that are in the sum of the reports of `alive`."""
    masks.apply(arrays, _seeds(the, alive, secrets))


def _seeds(the: Set, alive: Collection[Ticket], secrets: Mapping[Ticket, bytes]) -> Iterator[tuple[bytes, np.ufunc]]:
    for ticket, secret in secrets.items():
        if ticket in alive:
            yield own_seed(the.scope, secret, ticket), np.subtract
            continue
        key = private(secret)
        for other in the.neighbours[ticket]:  # what each of these has added, its key undoes
            if other in alive:
                yield pair_seed(the.scope, key, ticket, the.keys[other]), sign(ticket, other)
