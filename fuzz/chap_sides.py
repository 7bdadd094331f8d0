"""Both sides of DH-HMAC-CHAP with messages in any order, of any contents: only the declared errors come out, nobody is
believed who does not know the key, no key stands in what is sent or logged, and no message costs more than it may.
"""

from __future__ import annotations

import base64
import sys
import time

import atheris
from changed import changed

with atheris.instrument_imports(include=["spdk_ftl_py.nvme.auth"]):
    from spdk_ftl_py.nvme.auth import dh_groups
    from spdk_ftl_py.nvme.auth.controller_side import ControllerAuthentication
    from spdk_ftl_py.nvme.auth.host_side import HostAuthentication
    from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys
    from spdk_ftl_py.nvme.auth.messages import MESSAGE_BYTES_MAX, DhGroup, HashId, MessageError
    from spdk_ftl_py.nvme.auth.response import Policy, Sequence, transformed_key

HOSTNQN, SUBNQN = "nqn.2026-11.io.example:host", "nqn.2026-11.io.example:subsystem"
STEPS_MAX = 24
CPU_MAX_S = 0.5
"""Of one message, under instrumentation; a calculation in the largest group that is used here takes 2 ms."""
DH_CALCULATIONS_MAX = 2
"""Of one authentication: a public value, and the secret."""
GROUPS = [(DhGroup.NULL,), (DhGroup.NULL,), (DhGroup.FFDHE2048,), (DhGroup.FFDHE2048, DhGroup.NULL)]
KEY = DhchapKey(bytes(range(32)), HashId.SHA256)
OTHER_KEY = DhchapKey(bytes(range(64, 128)))
CTRLR_KEY = DhchapKey(bytes(range(100, 148)), HashId.SHA384)
SECRETS = [
    part
    for key, nqn in ((KEY, HOSTNQN), (CTRLR_KEY, SUBNQN))
    for part in (key.secret, key.secret.hex().encode(), base64.b64encode(key.secret), transformed_key(key, nqn))
]


def has_no_secret(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    assert not any(secret in raw for secret in SECRETS), "a key"


class Watch:
    """How much a message may cost."""

    def __enter__(self) -> None:
        self._begun_s = time.process_time()

    def __exit__(self, *_: object) -> None:
        assert time.process_time() - self._begun_s < CPU_MAX_S, "too expensive a message"


class CountedDhKey(dh_groups.DhKey):
    """What costs most."""

    calculations = 0

    def __init__(self, group: DhGroup) -> None:
        CountedDhKey.calculations += 1
        super().__init__(group)

    def shared_secret(self, peer_value: bytes) -> bytes:
        CountedDhKey.calculations += 1
        return super().shared_secret(peer_value)


dh_groups.DhKey = CountedDhKey  # type: ignore[misc]


def host_before_controller(input: atheris.FuzzedDataProvider) -> None:
    """A hostile host: what our host would send, changed, in any order."""
    knows_key, wants_proof, has_ctrlr_key = (input.ConsumeBool() for _ in range(3))
    side = ControllerAuthentication(
        HostKeys(HeldKey(KEY), HeldKey(CTRLR_KEY) if has_ctrlr_key else None), hostnqn=HOSTNQN, subnqn=SUBNQN,
        sequence=Sequence(), policy=Policy(dh_groups=(DhGroup.FFDHE2048, DhGroup.NULL)),
    )  # fmt: skip
    host = HostAuthentication(
        KEY if knows_key else OTHER_KEY, CTRLR_KEY if wants_proof else None, tid=input.ConsumeIntInRange(0, 0xFFFF),
        hostnqn=HOSTNQN, subnqn=SUBNQN, sequence=Sequence(), policy=Policy(dh_groups=input.PickValueInList(GROUPS)),
    )  # fmt: skip
    # Our host calculates too, and its calculations do not count.
    CountedDhKey.calculations = 0
    mine = 0
    prepared = host.negotiate()
    for _ in range(input.ConsumeIntInRange(1, STEPS_MAX)):
        if side.done or side.failed:
            break
        before = CountedDhKey.calculations
        if input.ConsumeIntInRange(0, 2):
            message = changed(input, prepared)
            side.expensive(message)
            with Watch():
                side.send(message)
            mine += CountedDhKey.calculations - before
        else:
            side.expensive(None)
            with Watch():
                answer = side.receive()
            mine += CountedDhKey.calculations - before
            has_no_secret(answer)
            assert len(answer) <= MESSAGE_BYTES_MAX
            prepared = next_of(host, answer)
        assert mine <= DH_CALCULATIONS_MAX, "too many calculations"
        has_no_secret(side.failure)
        assert not (side.done and side.failed)
    assert knows_key or not side.done, "believed without the key"
    if side.done and side.mutual:
        assert has_ctrlr_key


def next_of(host: HostAuthentication, answer: bytes) -> bytes:
    try:
        return host.reply(answer)
    except MessageError:
        pass
    try:
        return host.finish(answer) or b""
    except MessageError as error:
        has_no_secret(error.message)
        return host.failure2(error)


def controller_before_host(input: atheris.FuzzedDataProvider) -> None:
    """A hostile controller: what ours would answer, changed."""
    knows_keys, wants_proof = input.ConsumeBool(), input.ConsumeBool()
    host = HostAuthentication(
        KEY, CTRLR_KEY if wants_proof else None, tid=input.ConsumeIntInRange(0, 0xFFFF), hostnqn=HOSTNQN,
        subnqn=SUBNQN, sequence=Sequence(), policy=Policy(dh_groups=input.PickValueInList(GROUPS)),
    )  # fmt: skip
    keys = HostKeys(HeldKey(KEY), HeldKey(CTRLR_KEY)) if knows_keys else HostKeys(HeldKey(KEY), HeldKey(OTHER_KEY))
    side = ControllerAuthentication(
        keys, hostnqn=HOSTNQN, subnqn=SUBNQN, sequence=Sequence(),
        policy=Policy(dh_groups=(DhGroup.FFDHE2048, DhGroup.NULL)),
    )  # fmt: skip
    side.send(host.negotiate())
    try:
        challenge = changed(input, side.receive())
        CountedDhKey.calculations = 0
        with Watch():
            reply = host.reply(challenge)
        assert CountedDhKey.calculations <= DH_CALCULATIONS_MAX
        has_no_secret(reply)
        side.send(reply)
        outcome = changed(input, side.receive())
        with Watch():
            last = host.finish(outcome)
    except MessageError as error:
        has_no_secret(error.message)
        has_no_secret(host.failure2(error))
        return
    assert knows_keys or not wants_proof, "believed without the key"
    assert (last is not None) == wants_proof


def test_one_input(data: bytes) -> None:
    input = atheris.FuzzedDataProvider(data)
    if input.ConsumeIntInRange(0, 3):
        host_before_controller(input)
    else:
        controller_before_host(input)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
