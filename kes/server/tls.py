"""TLS for the server: who may connect, and who it is that did (contract sections 1, 2 and 5).

A `Context` is made whole from files and never changes; `ServerTLS` holds the one that new connections get, so a changed
certificate or a reload swaps it without touching connections that stand. Sessions are not resumed: a resumed handshake
would skip the verification that a reload may have tightened.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from OpenSSL.SSL import Connection
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.certificate import PrivateKeyError, load_private_key
from kes.errors import CertificateRequired, InvalidProxyRequest, TooManyCertificates
from kes.identity import Identity, is_ca, of_certificate
from kes.server.http.request import Peer

MAX_FILE: Final = 4 * 1024 * 1024  # bytes of a certificate, key or CA file
MAX_FORWARDED: Final = 16 * 1024  # characters of a forwarded certificate
_FORWARDED_REMEMBERED: Final = 1024  # forwarded certificates
_FORWARDED_TTL: Final = 60.0  # seconds that their verification is remembered
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2; all of TLS 1.3 are of this kind
_PROTOCOLS: Final = (b"http/1.1",)

# X509_V_ERR_… of OpenSSL's x509_vfy.h that a client's certificate runs into.
_REASONS: Final = {
    7: "its signature is not its issuer's",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its chain ends in an authority that is not trusted",
    20: "its issuer is not known",
    21: "its issuer is not known",
    22: "its chain is too long",
    24: "an issuer in its chain is no authority",
    26: "it is not for client authentication",
    28: "it is rejected for client authentication",
}
_REMEDIES: Final = {
    True: "add its authority to tls.ca, or set tls.auth to off",
    None: "assign the identity to a policy (policy.<name>.identities), or add its authority to tls.ca",
    False: "set tls.auth to off",
}

log = Logger()


class TLSError(Exception):
    """The TLS settings cannot be used: which file, and why. No secret is in the text."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a `Context` is made of.

    `auth`: True, a certificate must chain to a trusted authority; False, any will do; None, it must chain to an
    authority or have an identity of `pinned`. `optional`: clients without a certificate are let in too, for the routes
    with `skip_auth`.
    """

    cert: str
    key: str
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    auth: bool | None = None
    pinned: frozenset[str] = frozenset()
    optional: bool = False


@dataclass(slots=True, eq=False)
class Admission:
    """What the verification of one connection's client certificate has found so far."""

    accepted: bool = False
    error: int = 0  # X509_V_ERR_…, the first that came up; 0: none
    identity: Identity | None = None  # of a certificate with an error


class TLSProtocol(TLSMemoryBIOProtocol):
    """A TLS connection that remembers what became of its client's certificate.

    It has none of Twisted's buffer for small writes: connections here write once a read themselves.
    """

    def __init__(self, factory: TLSFactory, wrapped: IProtocol, connect: bool = True) -> None:
        super().__init__(factory, wrapped, connect)  # type: ignore[no-untyped-call]
        self.admission = Admission()


class TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS under the connections of another factory."""

    protocol = TLSProtocol


def read_file(path: str, what: str) -> bytes:
    """A file's content. TLSError names the file and the reason."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise TLSError(f"{what} {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE:
        raise TLSError(f"{what} {path}: is larger than {MAX_FILE} bytes")
    return data


def parse_certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, at least one. TLSError names `what` held none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise TLSError(f"{what}: holds no valid PEM certificate") from None


def authority_files(path: str) -> list[Path]:
    """`path` itself, or the regular files of the directory that it is."""
    folder = Path(path)
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else [folder]
    except OSError as error:
        raise TLSError(f"tls.ca {path}: {error.strerror}") from None


def load_authorities(path: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, or of every regular file of a directory."""
    files = authority_files(path)
    if not files:
        raise TLSError(f"tls.ca {path}: the directory holds no file")
    return [c for file in files for c in parse_certificates(read_file(str(file), "tls.ca"), f"tls.ca {file}")]


Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(settings: Settings) -> Stamp:
    """What changes when a file of `settings` does: each one's name, inode, size and modification time."""
    stamps = []
    for path in (settings.cert, settings.key, *(authority_files(settings.ca) if settings.ca else ())):
        try:
            status = Path(path).stat()
        except OSError:
            stamps.append((str(path), 0, 0, 0))
        else:
            stamps.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


class Context:
    """An OpenSSL context and the rules for admitting clients. Raises TLSError when its files are not usable."""

    def __init__(
        self, settings: Settings, cert: bytes, key: bytes, authorities: Iterable[x509.Certificate] = ()
    ) -> None:
        """`cert` and `key` are PEM; `settings.cert` and `.key` are what errors call them."""
        self.settings = settings
        self.warnings: list[str] = []
        self.ssl = context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list(_CIPHERS)
        context.set_alpn_select_callback(_select_protocol)
        self._use_own(cert, key)
        # With `auth: off` no authority is asked.
        if settings.auth is not False:
            context.set_default_verify_paths()
            for authority in authorities:
                self._store().add_cert(crypto.X509.from_cryptography(authority))
        mode = SSL.VERIFY_PEER
        if not settings.optional:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.set_verify(mode, self._verify)

    @classmethod
    def load(cls, settings: Settings) -> Context:
        """A context from the settings' files; blocks."""
        authorities = load_authorities(settings.ca) if settings.ca else []
        return cls(settings, read_file(settings.cert, "tls.cert"), read_file(settings.key, "tls.key"), authorities)

    def _use_own(self, cert: bytes, key: bytes) -> None:
        """The server's own certificate, its chain and its key."""
        settings = self.settings
        own, *chain = parse_certificates(cert, f"tls.cert {settings.cert}")
        try:
            names = list(own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (x509.ExtensionNotFound, ValueError):
            names = []
        if not names:
            raise TLSError(
                f"tls.cert {settings.cert}: the certificate has no subject alternative name (SAN), so no client would "
                "accept it; make one with a DNS name or IP address"
            )
        try:
            private_key = load_private_key(key, None if settings.password is None else settings.password.encode())
        except PrivateKeyError as error:
            raise TLSError(f"tls.key {settings.key}: {error}") from None
        if own.not_valid_after_utc.timestamp() < time.time():
            self.warnings.append(f"tls.cert {settings.cert}: the certificate expired on {own.not_valid_after_utc}")
        try:
            self.ssl.use_certificate(crypto.X509.from_cryptography(own))
            for certificate in chain:
                self.ssl.add_extra_chain_cert(crypto.X509.from_cryptography(certificate))
            self.ssl.use_privatekey(crypto.PKey.from_cryptography_key(private_key))
            self.ssl.check_privatekey()
        except (SSL.Error, crypto.Error, TypeError, ValueError):
            raise TLSError(f"tls.key {settings.key}: does not belong to the certificate in {settings.cert}") from None

    def _store(self) -> crypto.X509Store:
        store = self.ssl.get_cert_store()
        assert store is not None
        return store

    def _verify(self, connection: Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """OpenSSL's verification callback: once for each error, then once for each good link, the leaf (depth 0) last.

        Errors above the leaf are noted and let pass, so that the decision falls at the leaf, whose identity is in the
        log and may be pinned. `Admission.accepted` says yes only from there: `ServerTLS.peer` looks again.
        """
        protocol = connection.get_app_data()
        assert isinstance(protocol, TLSProtocol)
        admission = protocol.admission
        settings = self.settings
        if not ok and not admission.error:
            admission.error = error
        admission.accepted = False
        if depth > 0:
            return True
        if admission.error and settings.auth is not False:
            try:
                admission.identity = of_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
            except ValueError:
                return False
            if settings.auth or admission.identity not in settings.pinned:
                return False
        admission.accepted = True
        return True

    def verify_forwarded(self, certificate: x509.Certificate, untrusted: list[x509.Certificate]) -> bool:
        """Whether a certificate that did not come by a handshake would be admitted in one."""
        settings = self.settings
        if settings.auth is False:
            return True
        if settings.auth is None and of_certificate(certificate.public_bytes(Encoding.DER)) in settings.pinned:
            return True
        try:
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            pass
        else:
            if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
                return False
        chain = [crypto.X509.from_cryptography(issuer) for issuer in untrusted]
        try:
            crypto.X509StoreContext(
                self._store(), crypto.X509.from_cryptography(certificate), chain
            ).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True


def _select_protocol(_connection: Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes new connections from the current context, and finds out who is at the other end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._forwarded: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    @property
    def context(self) -> Context:
        return self._context

    @context.setter
    def context(self, context: Context) -> None:
        self._context = context
        self._forwarded.clear()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> Connection:
        connection = Connection(self._context.ssl, None)
        # Twisted sets it too, to the same, for its own callbacks.
        connection.set_app_data(protocol)
        return connection

    def peer(self, transport: TLSMemoryBIOProtocol) -> Peer | None:
        """Who has completed a handshake; None if it is not to be let in after all.

        Only the certificate whose key the client has proved to hold, the first, can give an identity: another one that
        is sent along could be anybody's.
        """
        address = host_of(transport)
        connection = transport.getHandle()
        assert isinstance(transport, TLSProtocol)
        leaf = connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            return Peer(address, None, CertificateRequired())
        if not transport.admission.accepted:
            return None
        proven = leaf.public_bytes(Encoding.DER)
        sent = [c.public_bytes(Encoding.DER) for c in connection.get_peer_cert_chain(as_cryptography=True) or ()]
        others = sent[1:] if sent[:1] == [proven] else sent
        try:
            leaves = [certificate for certificate in (proven, *others) if not is_ca(certificate)]
            if len(leaves) > 1:
                return Peer(address, None, TooManyCertificates())
            if leaves != [proven]:
                return Peer(address, None, CertificateRequired())
            return Peer(address, of_certificate(proven))
        except ValueError:
            return None

    def client(self, values: list[bytes]) -> Identity:
        """The identity of the client that a TLS proxy forwarded: URL-escaped PEM, in exactly one header."""
        if len(values) != 1 or len(values[0]) > MAX_FORWARDED:
            raise InvalidProxyRequest
        value, now = values[0], time.monotonic()
        known = self._forwarded.get(value)
        if known is not None and now < known[1]:
            return known[0]
        try:
            certificates = x509.load_pem_x509_certificates(unquote_to_bytes(value))
            authorities = [c for c in certificates if is_ca(c.public_bytes(Encoding.DER))]
            leaves = [c for c in certificates if c not in authorities]
            if len(leaves) != 1 or not self._context.verify_forwarded(leaves[0], authorities):
                raise InvalidProxyRequest
            identity = of_certificate(leaves[0].public_bytes(Encoding.DER))
        except ValueError:
            raise InvalidProxyRequest from None
        self._forwarded[value] = identity, now + _FORWARDED_TTL
        if len(self._forwarded) > _FORWARDED_REMEMBERED:
            self._forwarded.popitem(last=False)
        return identity

    def handshake_failed(self, transport: TLSMemoryBIOProtocol, reason: Failure) -> None:
        """Log a handshake that came to nothing, with what would have admitted its client."""
        address = host_of(transport)
        assert isinstance(transport, TLSProtocol)
        admission = transport.admission
        if admission.error and not admission.accepted:
            log.warn(
                "refused the client certificate of identity {identity} from {address}: {reason}. To admit it, {remedy}",
                identity=admission.identity or "<unknown>",
                address=address,
                reason=_REASONS.get(admission.error, f"verification error {admission.error}"),
                remedy=_REMEDIES[self._context.settings.auth],
            )
        elif reason.check(SSL.Error):
            log.info("TLS handshake with {address} failed: {reason}", address=address, reason=_last_reason(reason))


def host_of(transport: TLSMemoryBIOProtocol) -> str:
    """The peer's IP address; an IPv4 one also where it came to an IPv6 socket."""
    return str(transport.getPeer().host).removeprefix("::ffff:")


def _last_reason(failure: Failure) -> str:
    """The reason that OpenSSL gives last, which is the outermost."""
    errors = failure.value.args[0] if failure.value and failure.value.args else None
    return errors[-1][-1] if isinstance(errors, list) and errors else "unknown"
