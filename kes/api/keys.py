"""The key routes. Those that use a key answer at once when it is in the cache, without a Deferred or a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kes import errors, keystore
from kes.api.answers import encode
from kes.api.body import B, Body, body_decoder
from kes.api.endpoint import Endpoint
from kes.api.listing import ListEndpoint, continue_at, read_pattern
from kes.crypto import KEY_SIZE, Algorithm, DecryptionError, Key
from kes.errors import APIError
from kes.names import is_valid_name
from kes.server.http.request import Request
from kes.timestamp import format_rfc3339

log = Logger()


class ContextBody(Body):
    context: bytes | None = None


class EncryptBody(Body):
    plaintext: bytes | None = None
    context: bytes | None = None


class DecryptBody(Body):
    ciphertext: bytes | None = None
    context: bytes | None = None


class HMACBody(Body):
    message: bytes | None = None


class ImportBody(Body):
    key: bytes | None = None
    cipher: str = ""


class DataKeyAnswer(msgspec.Struct):
    plaintext: bytes
    ciphertext: bytes


class CiphertextAnswer(msgspec.Struct):
    ciphertext: bytes


class PlaintextAnswer(msgspec.Struct):
    plaintext: bytes


class HMACAnswer(msgspec.Struct):
    hmac: bytes


class DescribeAnswer(msgspec.Struct, omit_defaults=True):
    name: str
    algorithm: str
    created_at: str
    created_by: str = ""


class ListAnswer(msgspec.Struct, omit_defaults=True):
    names: list[str]
    continue_at: str = ""


T = TypeVar("T")


def store_error(failure: Failure, request: Request, message: str) -> APIError:
    """The answer for a key store's failure; `message` names the operation. The detail goes to the log only."""
    error = failure.value
    if isinstance(error, keystore.KeyExists):
        return errors.KeyExists()
    if isinstance(error, keystore.KeyNotFound):
        return errors.KeyNotFound()
    failure.trap(keystore.KeyStoreError)
    log.error("{message} {name!r}: {error}", message=message, name=request.argument, error=error)
    if isinstance(error, keystore.Unreachable):
        return errors.StoreUnreachable(message)
    return errors.StoreFailed(message)


def or_store_error(deferred: Deferred[T], request: Request, message: str) -> Deferred[T]:
    """`deferred` with a key store's failures turned into answers."""

    def failed(failure: Failure) -> Failure:
        return Failure(store_error(failure, request, message))

    return deferred.addErrback(failed)


class KeyEndpoint(Endpoint):
    """A route whose argument is a key's name."""

    def handle(self, request: Request) -> bytes | Deferred[bytes] | None:
        if not is_valid_name(request.argument):
            raise errors.InvalidName("key", request.argument)
        return self.handle_key(request, request.argument)

    def handle_key(self, request: Request, name: str) -> bytes | Deferred[bytes]:
        raise NotImplementedError


class Create(KeyEndpoint):
    def handle_key(self, request: Request, name: str) -> Deferred[bytes]:
        return self.store(request, name, request.state.algorithm, None)

    def store(self, request: Request, name: str, algorithm: Algorithm, material: bytes | None) -> Deferred[bytes]:
        assert request.identity is not None
        key = Key.generate(algorithm, created_by=request.identity, created_at=time.time_ns(), material=material)
        created = request.state.keys.create(name, key).addCallback(lambda _: b"")
        return or_store_error(created, request, "failed to create key")


class Import(Create):
    read = staticmethod(body_decoder(ImportBody, errors.InvalidImportBody))

    def handle_key(self, request: Request, name: str) -> Deferred[bytes]:
        body = self.read(request.body)
        algorithm = Algorithm.parse(body.cipher)
        if algorithm is None:
            raise errors.UnsupportedAlgorithm(body.cipher)
        if body.key is None or len(body.key) != KEY_SIZE:
            raise errors.InvalidKeySize(str(algorithm))
        return self.store(request, name, algorithm, body.key)


class Delete(KeyEndpoint):
    def handle_key(self, request: Request, name: str) -> Deferred[bytes]:
        deleted = request.state.keys.delete(name).addCallback(lambda _: b"")
        return or_store_error(deleted, request, "failed to delete key")


class UseKey(KeyEndpoint, Generic[B]):
    """A route that reads a key and does something with it and the request's body."""

    read: Callable[[bytes], B]

    def handle_key(self, request: Request, name: str) -> bytes | Deferred[bytes]:
        body = self.read(request.body)
        keys = request.state.keys
        key = keys.peek(name)
        if key is not None:
            return self.use(key, body)
        request.body = b""  # not to be held twice
        return or_store_error(keys.get(name), request, "failed to read key").addCallback(self.use, body)

    def use(self, key: Key, body: B) -> bytes:
        raise NotImplementedError


class Generate(UseKey[ContextBody]):
    read = staticmethod(body_decoder(ContextBody, errors.InvalidBody, optional=True))

    def use(self, key: Key, body: ContextBody) -> bytes:
        plaintext, ciphertext = key.secret.generate_data_key(body.context or b"")
        return encode(DataKeyAnswer(plaintext, ciphertext))


class Encrypt(UseKey[EncryptBody]):
    read = staticmethod(body_decoder(EncryptBody, errors.InvalidBody))

    def use(self, key: Key, body: EncryptBody) -> bytes:
        return encode(CiphertextAnswer(key.secret.encrypt(body.plaintext or b"", body.context or b"")))


class Decrypt(UseKey[DecryptBody]):
    read = staticmethod(body_decoder(DecryptBody, errors.InvalidBody))

    def use(self, key: Key, body: DecryptBody) -> bytes:
        try:
            plaintext = key.secret.decrypt(body.ciphertext or b"", body.context or b"")
        except DecryptionError:
            raise errors.NotAuthentic from None
        return encode(PlaintextAnswer(plaintext))


class HMAC(UseKey[HMACBody]):
    read = staticmethod(body_decoder(HMACBody, errors.InvalidBody))

    def use(self, key: Key, body: HMACBody) -> bytes:
        if key.hmac_key is None:
            raise errors.NoHMAC
        return encode(HMACAnswer(key.hmac_key.digest(body.message or b"")))


class Describe(KeyEndpoint):
    def handle_key(self, request: Request, name: str) -> bytes | Deferred[bytes]:
        keys = request.state.keys
        key = keys.peek(name)
        if key is not None:
            return self.describe(key, name)
        return or_store_error(keys.get(name), request, "failed to read key").addCallback(self.describe, name)

    def describe(self, key: Key, name: str) -> bytes:
        created_at = format_rfc3339(key.created_at)
        return encode(DescribeAnswer(name, str(key.secret.algorithm), created_at, key.created_by))


class List(ListEndpoint):
    def handle(self, request: Request) -> Deferred[bytes]:
        prefix, start_at = read_pattern(request.argument)

        def page(result: tuple[list[str], str]) -> bytes:
            names, following = result
            return encode(ListAnswer(names, continue_at(prefix, following)))

        listed = request.state.keys.list(prefix, start_at)
        return or_store_error(listed, request, "failed to list keys").addCallback(page)
