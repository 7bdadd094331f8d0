"""The host's side of one authentication (Base 2.0 section 8.13.5.1), message by message."""

from __future__ import annotations

import secrets
from typing import Final

from . import dh_groups
from .key import DhchapKey
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
)
from .response import Policy, Sequence, controller_response, host_response, same

_FAILURE1: Final = (AuthType.COMMON, AuthId.FAILURE1)


class RefusedError(MessageError):
    """The controller has ended the authentication and expects no further message."""


class HostAuthentication:
    """Call negotiate(), reply() and finish(), in that order. After a MessageError that one of them raised, send
    failure2() to the controller."""

    def __init__(
        self, key: DhchapKey, ctrlr_key: DhchapKey | None, *, tid: int, hostnqn: str, subnqn: str, sequence: Sequence,
        policy: Policy | None = None,
    ) -> None:  # fmt: skip
        """ctrlr_key: the key with which the controller has to prove its identity. None: it does not have to."""
        self.hash_id = HashId.SHA256
        self.dh_group = DhGroup.NULL
        self._key = key
        self._ctrlr_key = ctrlr_key
        self._tid = tid
        self._hostnqn = hostnqn
        self._subnqn = subnqn
        self._sequence = sequence
        policy = policy or Policy()
        self._hash_ids = policy.hash_ids
        self._dh_groups = tuple(group for group in policy.dh_groups if group is DhGroup.NULL or dh_groups.available())
        self._expected: bytes | None = None

    def negotiate(self) -> bytes:
        return Negotiate(self._tid, self._hash_ids, self._dh_groups).pack()

    def reply(self, message: bytes) -> bytes:
        """Returns the reply to the challenge. Raises MessageError, RefusedError."""
        _check_refusal(message)
        challenge = Challenge.unpack(message, self._tid)
        if challenge.hash_id not in self._hash_ids:
            raise MessageError(f"{challenge.hash_id.name} was not offered", FailureReason.HASH_NOT_USABLE)
        if challenge.dh_group not in self._dh_groups:
            raise MessageError(f"{challenge.dh_group.name} was not offered", FailureReason.DH_GROUP_NOT_USABLE)
        self.hash_id, self.dh_group = challenge.hash_id, challenge.dh_group
        dh_key = None if self.dh_group is DhGroup.NULL else dh_groups.DhKey(self.dh_group)
        secret = None if dh_key is None else dh_key.shared_secret(challenge.dh_value)
        response = host_response(
            self._key, self.hash_id, challenge=challenge.challenge, seqnum=challenge.seqnum, tid=self._tid,
            hostnqn=self._hostnqn, subnqn=self._subnqn, dh_secret=secret,
        )  # fmt: skip
        own_challenge, seqnum = None, 0
        if self._ctrlr_key is not None:
            own_challenge, seqnum = secrets.token_bytes(self.hash_id.hash_bytes), self._sequence.next()
            self._expected = controller_response(
                self._ctrlr_key, self.hash_id, challenge=own_challenge, seqnum=seqnum, tid=self._tid,
                hostnqn=self._hostnqn, subnqn=self._subnqn, dh_secret=secret,
            )  # fmt: skip
        return Reply(self._tid, response, own_challenge, seqnum, b"" if dh_key is None else dh_key.public_value).pack()

    def finish(self, message: bytes) -> bytes | None:
        """Takes the outcome. Returns the message that is still to be sent, if any. Raises MessageError,
        RefusedError."""
        _check_refusal(message)
        success = Success1.unpack(message, self._tid, self.hash_id)
        if self._expected is None:
            return None
        if success.response is None:
            raise MessageError("the controller did not authenticate", FailureReason.INCORRECT_PAYLOAD)
        if not same(self._expected, success.response):
            raise MessageError("the controller has another key", FailureReason.AUTHENTICATION_FAILED)
        return Success2(self._tid).pack()

    def failure2(self, error: MessageError) -> bytes:
        return Failure(AuthId.FAILURE2, self._tid, error.reason).pack()


def _check_refusal(message: bytes) -> None:
    if message_kind(message) == _FAILURE1:
        failure = Failure.unpack(message)
        raise RefusedError(f"the controller refuses: {failure.text}", FailureReason.AUTHENTICATION_FAILED)
