"""Flower's SecAgg+ on one device: the four stages of its client module, one after the other, and what each sends.

Its own functions, in the order in which its server calls them; what other devices would send is made with its own
functions too, outside the clock. Prints a line of JSON: processor seconds and bytes of each stage.

.bench/flower/bin/python bench/peers/with_flower_secagg.py PARAMETERS NEIGHBOURS
"""

import json
import sys
import time
from importlib import import_module

import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat

device = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # a function of this name hides it
parameters, neighbours = int(sys.argv[1]), int(sys.argv[2])
holders = neighbours + 1
row = np.random.default_rng(0).normal(0, 0.01, parameters).astype(np.float32)
seconds, sent = [], []


def size(value):
    """Return the bytes of what is sent, without any framing."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(size(item) for item in value.values())
    return sum(size(item) for item in value) if isinstance(value, list | tuple) else 8


def stage(work, *given):
    """Do one stage; note what it takes and sends."""
    began = time.process_time()
    answer = work(*given)
    seconds.append(time.process_time() - began)
    sent.append(size(answer))
    return answer


state = device.SecAggPlusState()
state.nid = 50
numbers = {"sample_num": holders, "share_num": holders, "threshold": holders // 2 + 1}
numbers |= {"clipping_range": 8.0, "target_range": 1 << 22, "mod_range": 1 << 32, "max_weight": 1000.0}
own = stage(device._setup, state, numbers)

others = {nid: [device.generate_key_pairs() for _ in range(2)] for nid in range(holders) if nid != state.nid}
keys = {str(nid): tuple(device.public_key_to_bytes(pair[1]) for pair in pairs) for nid, pairs in others.items()}
keys[str(state.nid)] = (own["pk1"], own["pk2"])
stage(device._share_keys, state, keys)

sealed = []
shares = [create_shares(secret, holders // 2 + 1, holders)[0] for secret in (bytes(32), bytes(306))]  # alike for all
for nid, (_, seals) in others.items():
    key = device.generate_shared_key(seals[0], device.bytes_to_public_key(state.pk2))
    sealed.append(device.encrypt(key, share_keys_plaintext_concat(nid, state.nid, *shares)))
update = ndarrays_to_parameters([row])
stage(device._collect_masked_vectors, state, {"ctxts": sealed, "srcs": list(others)}, 100, update)

nids = list(others)
gone = nids[: neighbours // 10]
stage(device._unmask, state, {"active_nids": [state.nid, *nids[len(gone) :]], "dead_nids": gone})
print(json.dumps({"seconds": seconds, "bytes": sent}))
