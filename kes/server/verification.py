"""OpenSSL's verification callback with the chain, which pyOpenSSL's own callback does not hand over.

OpenSSL calls back once for each error, and once for each certificate whose signature is right, the client's own last.
It looks for errors in this order: strength of the client's key, issuers, purposes, strength of the others' keys and
signatures; only then it checks signatures, from the trusted certificate down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

LEAF_ONLY: Final = -2  # a depth under which OpenSSL looks for no issuer; -1 stands for its default

# OpenSSL calls them as long as the context lives, which its connections keep.
_callbacks: WeakKeyDictionary[SSL.Context, object] = WeakKeyDictionary()


class Step:
    """One call of OpenSSL's: `error` (X509_V_ERR_…, 0: none) concerns the certificate at `depth`; the client's is 0."""

    __slots__ = ("_store", "depth", "error")

    def __init__(self, store: Any, error: int, depth: int) -> None:
        self._store = store
        self.error = error
        self.depth = depth

    def chain(self) -> list[bytes]:
        """The chain so far, in DER, the client's certificate first."""
        stack = lib.X509_STORE_CTX_get1_chain(self._store)
        count = lib.sk_X509_num(stack)
        # Each object frees its certificate, which `get1` has counted.
        certificates = [crypto.X509._from_raw_x509_ptr(lib.sk_X509_value(stack, n)) for n in range(count)]
        lib.sk_X509_free(stack)
        return [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in certificates]


def set_verify(context: SSL.Context, mode: int, verify: Callable[[SSL.Connection, Step], bool]) -> None:
    """Have `verify` decide after each step whether a handshake goes on. If it raises, the handshake fails."""

    def called(ok: int, store: Any) -> int:
        ssl = lib.X509_STORE_CTX_get_ex_data(store, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        error = 0 if ok else lib.X509_STORE_CTX_get_error(store)
        step = Step(store, error, lib.X509_STORE_CTX_get_error_depth(store))
        if not verify(SSL.Connection._reverse_mapping[ssl], step):
            return 0
        lib.X509_STORE_CTX_set_error(store, lib.X509_V_OK)
        return 1

    callback = ffi.callback("int(int, X509_STORE_CTX *)", called, error=0)
    lib.SSL_CTX_set_verify(context._context, mode, callback)
    _callbacks[context] = callback
