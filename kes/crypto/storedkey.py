"""A key as a key store holds it: the base64 text of a protobuf message, or the JSON of older servers, which is only
read (contract section 7). What was written in the current format, here or by the reference server, and is read and
written again, is the same text."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError

from kes.crypto.key import Algorithm, HMACKey, Key, SecretKey
from kes.timestamp import ZERO, format_rfc3339, parse_rfc3339

_TIMESTAMP: Final = ".google.protobuf.Timestamp"
_SHA256: Final = 1  # the number of the HMAC key's hash


class InvalidStoredKey(Exception):
    """What lies in the store is no key; the text says why and repeats none of it."""


def _message_class() -> Any:
    """The message `StoredKey`. Described here and not in generated code, which would tie the program to one release of
    the protobuf runtime."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="kes/storedkey.proto", package="kes", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    optional = kinds.LABEL_OPTIONAL
    secret = file.message_type.add(name="Secret")
    secret.field.add(name="key", number=1, type=kinds.TYPE_BYTES, label=optional)
    secret.field.add(name="type", number=2, type=kinds.TYPE_UINT32, label=optional)
    stored = file.message_type.add(name="StoredKey")
    for number, name, kind in (
        (1, "key", ".kes.Secret"),
        (2, "hmac_key", ".kes.Secret"),
        (3, "created_at", _TIMESTAMP),
    ):
        stored.field.add(name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=kind, label=optional)
    stored.field.add(name="created_by", number=4, type=kinds.TYPE_STRING, label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kes.StoredKey"))


_StoredKey = _message_class()


class _JSON(msgspec.Struct):
    material: bytes = msgspec.field(name="bytes")
    algorithm: str = ""
    created_at: str = ""
    created_by: str = ""


_decode_json = msgspec.json.Decoder(_JSON).decode


def encode(key: Key) -> bytes:
    """The text for a key store, about 250 bytes of ASCII."""
    message = _StoredKey()
    message.key.key = key.secret.material
    message.key.type = key.secret.algorithm.value
    if key.hmac_key is not None:
        message.hmac_key.key = key.hmac_key.material
        message.hmac_key.type = _SHA256
    message.created_at.seconds, message.created_at.nanos = divmod(key.created_at, 10**9)
    message.created_by = key.created_by
    return base64.b64encode(message.SerializeToString(deterministic=True))


def decode(value: bytes) -> Key:
    """The key in a key store's value. Line breaks are passed over: an editor may have added one (keystores.md 1.2).

    Raises InvalidStoredKey.
    """
    try:
        return _decode_older(value) if value.lstrip()[:1] == b"{" else _decode_current(value)
    except InvalidStoredKey:
        raise
    except (ValueError, OverflowError, DecodeError, msgspec.MsgspecError, RecursionError):
        # The cause would repeat what it could not read.
        raise InvalidStoredKey("not a stored key") from None


def _decode_current(value: bytes) -> Key:
    try:
        data = base64.b64decode(value.replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error:
        raise InvalidStoredKey("neither base64 nor a JSON object") from None
    message = _StoredKey.FromString(data)
    if not message.HasField("key"):
        raise InvalidStoredKey("no key in it")
    hmac_key = None
    if message.HasField("hmac_key"):
        if message.hmac_key.type != _SHA256 or not message.hmac_key.key:
            raise InvalidStoredKey("an unknown kind of HMAC key")
        hmac_key = HMACKey(message.hmac_key.key)
    created_at = ZERO
    if message.HasField("created_at"):
        if not 0 <= message.created_at.nanos < 10**9:  # as the Timestamp's definition has it
            raise InvalidStoredKey("an impossible creation time")
        created_at = message.created_at.seconds * 10**9 + message.created_at.nanos
    return _key(Algorithm(message.key.type), message.key.key, hmac_key, created_at, message.created_by)


def _decode_older(value: bytes) -> Key:
    stored = _decode_json(value)
    algorithm = Algorithm.parse(stored.algorithm or str(Algorithm.AES256))
    if algorithm is None:
        raise InvalidStoredKey("an unknown algorithm")
    created_at = parse_rfc3339(stored.created_at) if stored.created_at else ZERO
    return _key(algorithm, stored.material, None, created_at, stored.created_by)


def _key(algorithm: Algorithm, material: bytes, hmac_key: HMACKey | None, created_at: int, created_by: str) -> Key:
    format_rfc3339(created_at)  # a time that could not be told is not a time
    return Key(SecretKey(algorithm, material), hmac_key, created_at, created_by)
