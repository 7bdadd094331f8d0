"""PDUs and capsules that no honest host would send, in every state that a connection can be in, and what a target may
answer.

Everything follows from a seed, and each connection, from its number: `Assault.connection(seed, number)` does it again.
Blocking sockets; where the target is in this process, run it in a thread.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from hostile.malformed_commands import (
    SAFE_LBA,
    admin_commands,
    bad_data,
    bad_frames,
    carrier,
    connects,
    ic_requests,
    io_commands,
    rw,
)
from hostile.malformed_messages import Step, auth_receive, messages, send_message
from hostile.malformed_peer import Association, MalformedPeer, PduFault, Place, Refusal, Sent, free_qids
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.auth.key import HostKeys
from spdk_ftl_py.nvme.wire import AdminOp, FabricsType, Feature, LogPage, NvmOp, PduType, Property, Sqe
from unit.nvme.nvme_loop import connect_command

PATIENCE_S = 10.0
"""For what the target has to do at once: with a loaded machine, and turns that are shared, in seconds."""
COMMANDS_MAX = 6
IN_FLIGHT = 8
QUEUE_SIZE = 32
SHUTDOWN_CC = 0x00464001
STRANGER = "nqn.2026-11.io.example:stranger"


@dataclass
class Scene:
    """A connection in the state that is to be tried."""

    peer: MalformedPeer
    place: Place
    step: Step | None = None
    """Of the host's proof, where it owes one."""
    block_count: int = 0
    transfers: dict[int, tuple[int, int]] = field(default_factory=dict)
    """R2Ts that are not answered: (cid, bytes) by tag."""
    others: set[int] = field(default_factory=set)
    """Commands that were sent before, and are good."""
    disconnecting: bool = False


class Assault:
    """One thread's attack. It never writes below SAFE_LBA."""

    def __init__(
        self, port: int, subnqn: str, *, keys: HostKeys | None = None, claimed: str = "", hostnqn: str = STRANGER
    ) -> None:
        """hostnqn: needs no proof. claimed, keys: a host that has to give one, and can; without them those states are
        left out."""
        self.port = port
        self.subnqn = subnqn
        self.sent: Counter[str] = Counter()
        """PDUs and capsules, by state."""
        self._hostnqn = hostnqn
        self._claimed = claimed
        self._keys = keys
        self._qids = free_qids()
        self._associations: dict[bool, Association] = {}
        states: dict[str, Callable[[random.Random, ExitStack], Scene]] = {
            "before ICReq": self._before_icreq,
            "before Connect": self._before_connect,
            "discovery": self._discovery,
            "disabled": self._disabled,
            "enabled": self._enabled,
            "admin R2T": self._admin_transfer,
            "shut down": self._shut_down,
            "I/O": self._io,
            "I/O in flight": self._io_in_flight,
            "I/O R2T": self._io_transfer,
            "I/O disconnecting": self._io_disconnecting,
        }
        if keys is not None:
            states |= {f"proof: {step.value}": self._proving(step) for step in Step}
            states |= {"I/O proof": self._io_proof, "proven": self._proven}
        self.states = states

    def close(self) -> None:
        for association in self._associations.values():
            association.close()
        self._associations.clear()

    def connection(self, seed: str, number: int) -> None:
        """The connection of that number. Raises AssertionError, with all that is needed to do it again."""
        names = list(self.states)
        state = names[number % len(names)]
        rng = random.Random(f"{seed}:{number}")
        done: list[str] = []
        try:
            with ExitStack() as stack:
                scene = self.states[state](rng, stack)
                for sent in self._pieces(scene, rng):
                    done.append(sent.what)
                    self.sent[state] += 1
                self._settle(scene, rng)
        except Exception as error:
            raise AssertionError(
                f"SPDK_FTL_MALFORMED={seed}:{number} ({state}): {', '.join(done)}: {error!r}"
            ) from error

    # --- states

    def _peer(self, rng: random.Random, stack: ExitStack, *, digests: int | None = None) -> MalformedPeer:
        agreed = rng.choice((0, 0, 1, 2, 3)) if digests is None else digests
        return stack.enter_context(MalformedPeer(self.port, digests=agreed, timeout_s=PATIENCE_S))

    def _before_icreq(self, rng: random.Random, stack: ExitStack) -> Scene:
        return Scene(self._peer(rng, stack, digests=0), Place.FRESH)

    def _before_connect(self, rng: random.Random, stack: ExitStack) -> Scene:
        return Scene(self._peer(rng, stack).initialize(), Place.OPEN)

    def _discovery(self, rng: random.Random, stack: ExitStack) -> Scene:
        peer = self._peer(rng, stack).initialize()
        _good(peer.connect(wire.DISCOVERY_NQN, self._hostnqn))
        if rng.random() < 0.7:
            _good(peer.enable())
            return Scene(peer, Place.DISCOVERY)
        return Scene(peer, Place.DISABLED)

    def _disabled(self, rng: random.Random, stack: ExitStack) -> Scene:
        peer = self._peer(rng, stack).initialize()
        _good(peer.connect(self.subnqn, self._hostnqn))
        return Scene(peer, Place.DISABLED)

    def _enabled(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._disabled(rng, stack)
        _good(scene.peer.enable())
        return replace(scene, place=Place.ADMIN)

    def _shut_down(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._enabled(rng, stack)
        _good(scene.peer.set_property(Property.CC, rng.choice((SHUTDOWN_CC, SHUTDOWN_CC & ~1))))
        return replace(scene, place=Place.SHUT)

    def _admin_transfer(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._enabled(rng, stack)
        cid = scene.peer.next_cid()
        scene.peer.send(Sqe(AdminOp.SET_FEATURES, cid=cid, cdw10=Feature.HOST_BEHAVIOR, sgl_bytes=512))
        self._await_r2t(scene)
        return scene

    def _await_r2t(self, scene: Scene) -> None:
        kind, header, _ = scene.peer.pdu()
        assert kind == PduType.R2T
        cid, ttag, offset, length = wire.DATA_BODY.unpack(header[8:])
        assert offset == 0
        scene.transfers[ttag] = cid, length

    def _association(self, proven: bool) -> Association:
        """An admin queue behind which I/O queues are tried."""
        there = self._associations.get(proven)
        if there is None or not there.alive():
            if there is not None:
                there.close()
            hostnqn, keys = (self._claimed, self._keys) if proven else (self._hostnqn, None)
            there = Association(self.port, self.subnqn, hostnqn, keys, patience_s=PATIENCE_S)
            self._associations[proven] = there
        return there

    def _io_queue(
        self, rng: random.Random, stack: ExitStack, *, proven: bool = False, queue_size: int = QUEUE_SIZE
    ) -> Scene:
        association = self._association(proven)
        peer = self._peer(rng, stack).initialize()
        association.connect_io(peer, self._qids, queue_size)
        return Scene(peer, Place.IO, block_count=association.block_count)

    def _io(self, rng: random.Random, stack: ExitStack) -> Scene:
        return self._io_queue(rng, stack)

    def _io_in_flight(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._io_queue(rng, stack)
        for _ in range(IN_FLIGHT):
            cid = scene.peer.next_cid()
            scene.others.add(cid)
            blocks = rng.randrange(1, 9)
            lba = rng.randrange(scene.block_count - blocks)
            scene.peer.send(rw(NvmOp.READ, lba, blocks, cid))
        return scene

    def _io_transfer(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._io_queue(rng, stack)
        for _ in range(rng.choice((1, 1, 3))):
            cid = scene.peer.next_cid()
            scene.peer.send(rw(NvmOp.WRITE, SAFE_LBA + rng.randrange(64), rng.randrange(2, 9), cid))
            self._await_r2t(scene)
        return scene

    def _io_disconnecting(self, rng: random.Random, stack: ExitStack) -> Scene:
        scene = self._io_in_flight(rng, stack) if rng.random() < 0.5 else self._io_transfer(rng, stack)
        cid = scene.peer.next_cid()
        scene.others.add(cid)
        scene.peer.send(Sqe(AdminOp.FABRICS, cid=cid, nsid=FabricsType.DISCONNECT))
        return replace(scene, disconnecting=True)

    def _proving(self, step: Step) -> Callable[[random.Random, ExitStack], Scene]:
        def scene(rng: random.Random, stack: ExitStack) -> Scene:
            peer = self._peer(rng, stack).initialize()
            cqe = peer.connect(self.subnqn, self._claimed)
            _good(cqe)
            assert cqe.result & wire.CONNECT_ATR
            assert self._keys is not None
            peer.begin_proof(step, self._keys, self._claimed, self.subnqn, rng)
            return Scene(peer, Place.UNPROVEN, step=step)

        return scene

    def _io_proof(self, rng: random.Random, stack: ExitStack) -> Scene:
        association = self._association(True)
        peer = self._peer(rng, stack).initialize()
        association.connect_io(peer, self._qids, QUEUE_SIZE, prove=False)
        step = rng.choice(list(Step))
        assert self._keys is not None
        peer.begin_proof(step, self._keys, self._claimed, self.subnqn, rng)
        return Scene(peer, Place.UNPROVEN, step=step)

    def _proven(self, rng: random.Random, stack: ExitStack) -> Scene:
        if rng.random() < 0.5:
            return self._io_queue(rng, stack, proven=True)
        scene = self._proving(Step.NEGOTIATE)(rng, stack)
        scene.peer.finish_proof()
        if rng.random() < 0.5:
            return Scene(scene.peer, Place.DISABLED)
        _good(scene.peer.enable())
        return Scene(scene.peer, Place.ADMIN)

    # --- what is sent

    def _pieces(self, scene: Scene, rng: random.Random) -> Iterator[Sent]:
        """Some commands that are to fail, and then what is to end the connection, or may. Sends each."""
        peer = scene.peer
        if scene.place is not Place.FRESH:
            for _ in range(rng.randrange(COMMANDS_MAX)):
                yield peer.put(self._bad_command(scene, rng))
        last = rng.random()
        if last < 0.7:
            yield peer.put(self._bad_pdu(scene, rng))
        elif last < 0.85 and scene.place is not Place.FRESH:
            yield peer.put(self._flipped(scene, rng))
        elif last < 0.92:
            noise = rng.randbytes(rng.randrange(1, 600))
            yield peer.put(Sent("noise", noise, Refusal.ANY))

    def _bad_command(self, scene: Scene, rng: random.Random) -> Sent:
        """Which fails, and nothing else happens."""
        peer = scene.peer
        # Now and then of two commands with one id: both are answered.
        cid = peer.last_cid if scene.place is not Place.UNPROVEN and rng.random() < 0.15 else peer.next_cid()
        if scene.place is Place.UNPROVEN and rng.random() < 0.6:
            assert scene.step is not None
            what, message, wrong = rng.choice(list(messages(scene.step, peer.tid, rng)))
            sqe = send_message(message, cid=cid, **wrong)
            return Sent(f"message: {what}", peer.capsule(sqe, message), Refusal.PROOF, cid)
        if scene.place is Place.IO:
            choices = io_commands(scene.block_count, rng)
        elif scene.place is Place.OPEN:
            choices = connects(self.subnqn, self._hostnqn, rng)
        else:
            choices = admin_commands(scene.place, rng)
        what, sqe, data = rng.choice(list(choices))
        digest_fails = peer.data_digest and rng.random() < 0.2
        if digest_fails:
            what, (sqe, data) = "wrong data digest", carrier(scene.place, self.subnqn, self._hostnqn)
        raw = peer.capsule(replace(sqe, cid=cid), data, break_data_digest=digest_fails)
        return Sent(what, raw, Refusal.COMMAND, cid)

    def _bad_pdu(self, scene: Scene, rng: random.Random) -> Sent:
        """Which ends the connection."""
        peer = scene.peer
        if scene.place is Place.FRESH:
            what, raw = rng.choice(list(ic_requests(rng)))
            return Sent(what, raw, Refusal.CONNECTION)
        if scene.transfers and rng.random() < 0.9:
            what, raw = rng.choice(list(bad_data(peer, scene.transfers, rng, io=scene.place is Place.IO)))
            return Sent(what, raw, Refusal.CONNECTION)
        kinds = list(bad_frames(peer, rng, io=scene.place is Place.IO))
        what, raw = rng.choice(kinds)
        return Sent(what, raw, Refusal.CONNECTION)

    def _flipped(self, scene: Scene, rng: random.Random) -> Sent:
        """A good command, some bits of which are others, or that is cut off."""
        peer = scene.peer
        cid = rng.choice(list(scene.others)) if scene.others and rng.random() < 0.3 else peer.next_cid()
        data = b""
        if scene.place is Place.IO:
            sqe = rw(rng.choice((NvmOp.READ, NvmOp.WRITE, NvmOp.FLUSH)), SAFE_LBA + rng.randrange(512), 1, cid)
        elif scene.place is Place.OPEN:
            sqe, data = connect_command(subnqn=self.subnqn, hostnqn=self._hostnqn)
        elif scene.place is Place.UNPROVEN:
            sqe = rng.choice((auth_receive(), send_message(b""), Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096)))
        else:
            sqe = rng.choice(
                (
                    Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096),
                    Sqe(AdminOp.GET_LOG_PAGE, nsid=wire.NSID_ALL, cdw10=127 << 16 | LogPage.SMART, sgl_bytes=512),
                    Sqe(AdminOp.SET_FEATURES, cdw10=Feature.HOST_BEHAVIOR, sgl_bytes=512),
                    Sqe(AdminOp.FABRICS, nsid=FabricsType.PROPERTY_GET, cdw10=1),
                    Sqe(AdminOp.ABORT, cdw10=rng.getrandbits(32)),
                    Sqe(AdminOp.ASYNC_EVENT_REQUEST),
                )
            )
        sqe = replace(sqe, cid=cid)
        if rng.random() < 0.3:
            raw = peer.capsule(sqe, data)
            return Sent("cut off", raw[: rng.randrange(1, len(raw))], Refusal.ANY)
        packed = bytearray(sqe.pack())
        for _ in range(rng.choice((1, 1, 2, 5))):
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        flipped = Sqe.unpack(packed)
        if scene.place is Place.IO and flipped.opcode in (NvmOp.WRITE, NvmOp.WRITE_ZEROES):
            room = max(scene.block_count - SAFE_LBA, 1)
            lba = SAFE_LBA + (flipped.cdw11 << 32 | flipped.cdw10) % room
            flipped = replace(flipped, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32)
        raw = bytearray(peer.capsule(flipped, data))
        if rng.random() < 0.3:
            # In the common header, PLEN included.
            raw[rng.randrange(8)] ^= 1 << rng.randrange(8)
        refusal = Refusal.PROOF if scene.place is Place.UNPROVEN else Refusal.ANY
        return Sent("flipped bits", bytes(raw), refusal, flipped.cid)

    # --- what must come

    def _settle(self, scene: Scene, rng: random.Random) -> None:
        peer = scene.peer
        peer.owes_proof = scene.place is Place.UNPROVEN and scene.step is not None and not scene.step.knows_key
        if peer.owes_proof and not peer.must_end and not peer.may_end:
            # The host asks what has become of its proof, and goes on as if that were good.
            cid = peer.next_cid()
            peer.put(Sent("outcome", peer.capsule(replace(auth_receive(), cid=cid)), Refusal.PROOF, cid))
            cid = peer.next_cid()
            probe = peer.capsule(Sqe(AdminOp.FABRICS, cid=cid, nsid=FabricsType.PROPERTY_GET, cdw10=1))
            peer.put(Sent("probe", probe, Refusal.COMMAND, cid))
        peer.settle(others=scene.others, given_up=scene.disconnecting, transfers=scene.transfers)


def _good(cqe: wire.Cqe) -> None:
    if cqe.status:
        raise PduFault(f"what is good was answered with {cqe.status:#x}, result {cqe.result:#x}")


@contextmanager
def assaults(count: int, make: Callable[[], Assault]) -> Iterator[list[Assault]]:
    made = [make() for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


async def assail_together(threads: list[Assault], seed: str, pdus: int) -> None:
    """So many PDUs, each thread its part. Raises AssertionError."""
    await asyncio.gather(
        *(
            asyncio.to_thread(_assail, each, seed, number, len(threads), pdus // len(threads))
            for number, each in enumerate(threads)
        )
    )


def _assail(assault: Assault, seed: str, first: int, step: int, pdus: int) -> None:
    number = first
    while sum(assault.sent.values()) < pdus:
        assault.connection(seed, number)
        number += step
