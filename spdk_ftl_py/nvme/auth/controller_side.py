"""The controller's side of one authentication (Base 2.0 section 8.13.5.1), message by message."""

from __future__ import annotations

import secrets
from enum import Enum, auto

from ...errors import FtlError
from . import dh_groups
from .key import HostKeys
from .messages import (
    AuthId,
    AuthType,
    Challenge,
    DhGroup,
    Failure,
    FailureReason,
    HashId,
    MessageError,
    Negotiate,
    Reply,
    Success1,
    Success2,
    message_kind,
    message_tid,
    reason_text,
)
from .response import Policy, Sequence, controller_response, host_response, same


class ControllerState(Enum):
    """The step that comes next."""

    NEGOTIATE = auto()
    """The host sends its abilities."""
    CHALLENGE = auto()
    """The host asks for the challenge."""
    REPLY = auto()
    SUCCESS1 = auto()
    """The host has proved its identity, and asks for the outcome."""
    SUCCESS2 = auto()
    """The host says whether the controller has proved its identity, too."""
    FAILURE1 = auto()
    """The host asks for the outcome, which is a failure."""
    DONE = auto()
    FAILED = auto()
    """The host knows about the failure. The connection has to end."""


class ControllerAuthentication:
    """One authentication of a host. send() and receive() never raise: they report failures to the host."""

    def __init__(
        self, keys: HostKeys, *, hostnqn: str, subnqn: str, sequence: Sequence, policy: Policy | None = None
    ) -> None:
        self.state = ControllerState.NEGOTIATE
        self.failure = ""
        """The reason of the failure, for the log."""
        self.hash_id = HashId.SHA256
        self.dh_group = DhGroup.NULL
        self.mutual = False
        """The host has asked the controller to prove its identity."""
        self._keys = keys
        self._hostnqn = hostnqn
        self._subnqn = subnqn
        self._sequence = sequence
        self._policy = policy or Policy()
        self._tid = 0
        self._seqnum = 0
        self._challenge = b""
        self._dh_key: dh_groups.DhKey | None = None
        self._response: bytes | None = None
        self._reason = FailureReason.AUTHENTICATION_FAILED

    @property
    def done(self) -> bool:
        return self.state is ControllerState.DONE

    @property
    def failed(self) -> bool:
        return self.state is ControllerState.FAILED

    def expensive(self, message: bytes | None) -> bool:
        """Whether the message needs a calculation in a DH group. None: the next receive()."""
        if self.dh_group is DhGroup.NULL:
            return False
        return self.state is (ControllerState.CHALLENGE if message is None else ControllerState.REPLY)

    def send(self, message: bytes) -> None:
        """Takes the data of an Authentication Send."""
        if self.state in (ControllerState.FAILURE1, ControllerState.FAILED):
            return
        try:
            self._send(message)
        except MessageError as error:
            self._fail(error.message, error.reason)
        except FtlError as error:
            # Our own keys cannot be read. The host is not to blame.
            self._fail(error.message, FailureReason.AUTHENTICATION_FAILED)

    def receive(self) -> bytes:
        """Returns the data of an Authentication Receive."""
        if self.state is ControllerState.CHALLENGE:
            self.state = ControllerState.REPLY
            return self._make_challenge()
        if self.state is ControllerState.SUCCESS1:
            self.state = ControllerState.DONE if self._response is None else ControllerState.SUCCESS2
            return Success1(self._tid, self.hash_id, self._response).pack()
        if self.state is not ControllerState.FAILURE1:
            self._fail("the host asked for a message when it should have sent one", FailureReason.INCORRECT_MESSAGE)
        self.state = ControllerState.FAILED
        return Failure(AuthId.FAILURE1, self._tid, self._reason).pack()

    # --- steps ------------------------------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        kind = message_kind(message)
        if self.state is ControllerState.NEGOTIATE:
            self._tid = message_tid(message)
            self._negotiate(Negotiate.unpack(message))
        elif self.state is ControllerState.REPLY:
            self._check_reply(Reply.unpack(message, self._tid, self.hash_id, self.dh_group))
        elif self.state is ControllerState.SUCCESS2 and kind == (AuthType.COMMON, AuthId.FAILURE2):
            failure = Failure.unpack(message)
            raise MessageError(
                f"the host refuses the controller's response: {failure.text}", FailureReason.AUTHENTICATION_FAILED
            )
        elif self.state is ControllerState.SUCCESS2:
            Success2.unpack(message, self._tid)
            self.state = ControllerState.DONE
        else:
            raise MessageError(
                f"message {kind[0]:02x}/{kind[1]:02x} when {self.state.name} was expected",
                FailureReason.INCORRECT_MESSAGE,
            )

    def _negotiate(self, offer: Negotiate) -> None:
        if offer.secure_channel:
            raise MessageError(
                "the host requires a secure channel, which is not supported", FailureReason.SECURE_CHANNEL_MISMATCH
            )
        hash_id = next((each for each in self._policy.hash_ids if each in offer.hash_ids), None)
        if hash_id is None:
            raise MessageError(f"none of the hashes {list(offer.hash_ids)} is supported", FailureReason.HASH_NOT_USABLE)
        usable = (each for each in self._policy.dh_groups if each is DhGroup.NULL or dh_groups.available())
        group = next((each for each in usable if each in offer.dh_groups), None)
        if group is None:
            raise MessageError(
                f"none of the DH groups {list(offer.dh_groups)} is supported", FailureReason.DH_GROUP_NOT_USABLE
            )
        self.hash_id, self.dh_group = hash_id, group
        self.state = ControllerState.CHALLENGE

    def _make_challenge(self) -> bytes:
        self._challenge = secrets.token_bytes(self.hash_id.hash_bytes)
        self._seqnum = self._sequence.next()
        self._dh_key = None if self.dh_group is DhGroup.NULL else dh_groups.DhKey(self.dh_group)
        value = b"" if self._dh_key is None else self._dh_key.public_value
        return Challenge(self._tid, self.hash_id, self.dh_group, self._seqnum, self._challenge, value).pack()

    def _check_reply(self, reply: Reply) -> None:
        key = self._keys.key.load()
        secret = None if self._dh_key is None else self._dh_key.shared_secret(reply.dh_value)
        self._dh_key = None
        expected = host_response(
            key, self.hash_id, challenge=self._challenge, seqnum=self._seqnum, tid=self._tid, hostnqn=self._hostnqn,
            subnqn=self._subnqn, dh_secret=secret,
        )  # fmt: skip
        if not same(expected, reply.response):
            raise MessageError("the host has another key", FailureReason.AUTHENTICATION_FAILED)
        if reply.challenge is not None:
            if self._keys.ctrlr_key is None:
                raise MessageError(
                    "the host asks the controller to authenticate, but no key is configured for that",
                    FailureReason.AUTHENTICATION_FAILED,
                )
            self.mutual = True
            self._response = controller_response(
                self._keys.ctrlr_key.load(), self.hash_id, challenge=reply.challenge, seqnum=reply.seqnum,
                tid=self._tid, hostnqn=self._hostnqn, subnqn=self._subnqn, dh_secret=secret,
            )  # fmt: skip
        self.state = ControllerState.SUCCESS1

    def _fail(self, why: str, reason: FailureReason) -> None:
        self._dh_key = None
        self._reason = reason
        self.failure = f"{why} ({reason_text(reason)})"
        self.state = ControllerState.FAILURE1
