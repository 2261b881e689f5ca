"""TLS for the server: who may connect, and who it is that did (contract sections 1, 2 and 5).

A `Context` is made whole from files and never changes; `ServerTLS` holds the one that new connections get, so a changed
certificate or a reload swaps it without touching connections that stand. Sessions are not resumed: a resumed handshake
would skip the verification that a reload may have tightened. Whatever else happens, nobody is let in with a certificate
that has not been looked at: `Admission.granted` begins as no.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from OpenSSL.SSL import Connection
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, ITransport
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.certificate import PrivateKeyError, load_private_key
from kes.errors import CertificateRequired, InvalidProxyRequest, TooManyCertificates
from kes.filemode import key_file_warning
from kes.identity import Identity, is_ca
from kes.server.admission import (
    BAD_CERTIFICATE,
    LONG_HANDSHAKE,
    MALFORMED,
    MAX_AUTHORITIES,
    MAX_DEPTH,
    NOT_FOR_CLIENTS,
    TOO_LONG,
    TOO_MANY,
    Admission,
    check_cost,
    check_strength,
    is_authority,
    suits_clients,
)
from kes.server.http.limits import MAX_HANDSHAKE, MAX_LATER_STEPS
from kes.server.http.request import Peer
from kes.server.metrics import HandshakeFailure
from kes.server.records import read_records
from kes.server.verification import LEAF_ONLY, Step, set_verify

MAX_FILE: Final = 4 * 1024 * 1024  # bytes of a certificate, key or CA file
MAX_FORWARDED: Final = 16 * 1024  # characters of a forwarded certificate
_FORWARDED_REMEMBERED: Final = 1024  # forwarded certificates
_FORWARDED_TTL: Final = 60.0  # seconds that their verification is remembered
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2; all of TLS 1.3 are of this kind
_PROTOCOLS: Final = (b"h2", b"http/1.1")

_NO_RENEGOTIATION: Final = 100  # the alert's number (RFC 5246, section 7.2)
_NO_CERTIFICATE: Final = "peer did not return a certificate"  # in OpenSSL's words

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


class TLSProtocol(TLSMemoryBIOProtocol):
    """A TLS connection that remembers what became of its client's certificate.

    It has none of Twisted's buffer for small writes, as connections here write once a read themselves. And it delivers
    what one read brought as a whole: clients put each request, and even each frame, into a record of its own.
    """

    admission: Admission
    _handshake_room = MAX_HANDSHAKE
    _steps_left = MAX_LATER_STEPS

    def makeConnection(self, transport: ITransport) -> None:
        # As Twisted does it, less that it copies the transport's interfaces, one by one and twice, for whoever may ask,
        # and begins a handshake that only the client can.
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)

    def handshake_step(self) -> None:
        """OpenSSL took a step of a handshake. After the first handshake steps are bounded, as some write an answer."""
        if self._handshakeDone:
            self._steps_left -= 1

    def renegotiation(self) -> None:
        """The client has asked for a second handshake (TLS 1.2). No client of ours does."""
        self._steps_left = -1

    def dataReceived(self, data: bytes) -> None:
        if not self._handshakeDone:
            data = self._continue_handshake(data)
        if data:
            self._receive(data)
        if self._steps_left < 0 and not self._aborted:
            log.info(
                "closed the connection of {address}: it asks for new TLS handshakes or keys", address=host_of(self)
            )
            self.abortConnection()  # type: ignore[no-untyped-call]

    def _receive(self, data: bytes) -> None:
        if self._appSendBuffer or self._lostTLSConnection:
            super().dataReceived(data)  # type: ignore[no-untyped-call]
            return
        connection = self._tlsConnection
        connection.bio_write(data)
        content, complete = read_records(connection)
        if content and not self._aborted:
            self.wrappedProtocol.dataReceived(content)
        if not (content and complete):
            # Either something else than content has come, which may want an answer, or there is more to find.
            self._flushReceiveBIO()  # type: ignore[no-untyped-call]

    def _continue_handshake(self, data: bytes) -> bytes:
        """Give what was received to the handshake, as far as it may be so large; what is left after its end."""
        data, rest = data[: self._handshake_room], data[self._handshake_room :]
        self._handshake_room -= len(data)
        if data:
            super().dataReceived(data)  # type: ignore[no-untyped-call]
        if not rest or self._lostTLSConnection or self._aborted:
            return b""
        if not self._handshakeDone:
            self.admission.error = LONG_HANDSHAKE
            self.abortConnection()  # type: ignore[no-untyped-call]
            return b""
        return rest


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
    except BAD_CERTIFICATE:
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
    """An OpenSSL context and the rules for admitting clients. Raises TLSError when its files are not usable.

    `expires` is when the first of the server's own certificate and its chain does, in seconds since the epoch.
    """

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
        context.set_info_callback(_watch)
        self._use_own(cert, key)
        # With `auth: off` no authority is asked.
        if settings.auth is not False:
            context.set_default_verify_paths()
            store = self._store()
            # An authority in tls.ca is trusted as it is, also where it is not the root.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
            for authority in authorities:
                store.add_cert(crypto.X509.from_cryptography(authority))
        mode = SSL.VERIFY_PEER
        if not settings.optional:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        set_verify(context, mode, verify)
        context.set_verify_depth(LEAF_ONLY if settings.auth is False else MAX_DEPTH)

    @classmethod
    def load(cls, settings: Settings) -> Context:
        """A context from the settings' files; blocks."""
        authorities = load_authorities(settings.ca) if settings.ca else []
        context = cls(settings, read_file(settings.cert, "tls.cert"), read_file(settings.key, "tls.key"), authorities)
        if warning := key_file_warning(settings.key):
            context.warnings.append(f"tls.key {warning}")
        return context

    def _use_own(self, cert: bytes, key: bytes) -> None:
        """The server's own certificate, its chain and its key."""
        settings = self.settings
        own, *chain = certificates = parse_certificates(cert, f"tls.cert {settings.cert}")
        self.expires = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
        try:
            names = list(own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (x509.ExtensionNotFound, *BAD_CERTIFICATE):
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
            self.ssl.use_certificate(own)
            for certificate in chain:
                self.ssl.add_extra_chain_cert(certificate)
            self.ssl.use_privatekey(private_key)
            self.ssl.check_privatekey()
        except (SSL.Error, crypto.Error, TypeError, ValueError):
            raise TLSError(f"tls.key {settings.key}: does not belong to the certificate in {settings.cert}") from None

    def _store(self) -> crypto.X509Store:
        store = self.ssl.get_cert_store()
        assert store is not None
        return store

    def verify_forwarded(self, certificate: x509.Certificate, untrusted: list[x509.Certificate]) -> Admission:
        """What a certificate that did not come by a handshake would have met with in one."""
        settings = self.settings
        admission = Admission(settings.auth, settings.pinned)
        leaf = certificate.public_bytes(Encoding.DER)
        if not admission.examine(leaf):
            return admission
        if len(untrusted) > MAX_AUTHORITIES:
            admission.error = TOO_MANY
        elif settings.auth is not False:  # with `off` no chain is verified
            admission.error = self._error_of(certificate, untrusted)
            if admission.error and admission.granted:
                # As in a handshake, where its chain would be verified to the end.
                admission.error = check_cost([leaf, *(issuer.public_bytes(Encoding.DER) for issuer in untrusted)])
        return admission

    def _error_of(self, certificate: x509.Certificate, untrusted: list[x509.Certificate]) -> int:
        """X509_V_ERR_… of a certificate; 0: none."""
        try:
            return check_strength([certificate]) or self._chain_error_of(certificate, untrusted)
        except BAD_CERTIFICATE:
            return MALFORMED

    def _chain_error_of(self, certificate: x509.Certificate, untrusted: list[x509.Certificate]) -> int:
        chain = [crypto.X509.from_cryptography(issuer) for issuer in untrusted]
        leaf = crypto.X509.from_cryptography(certificate)
        try:
            verified = crypto.X509StoreContext(self._store(), leaf, chain).get_verified_chain()
        except crypto.X509StoreContextError as error:
            code: int = error.errors[0]
            return code
        # Beside the authorities in between there are the certificate and the one that is trusted.
        if len(verified) > MAX_DEPTH + 2:
            return TOO_LONG
        links = [link.to_cryptography() for link in verified]
        if not all(suits_clients(link, depth) for depth, link in enumerate(links)):
            return NOT_FOR_CLIENTS
        return check_strength(links)


def verify(connection: Connection, step: Step) -> bool:
    """Whether a handshake goes on: not after an error, unless the certificate is admitted in spite of it.

    `ServerTLS.peer` looks again, in case that nobody has called this.
    """
    admission: Admission = connection.get_app_data().admission
    chain = step.chain() if step.error or admission.identity is None else []
    if admission.identity is None and not admission.examine(chain[0]):
        return False
    if not step.error or (step.error == NOT_FOR_CLIENTS and _suits_clients(chain[step.depth], step.depth)):
        return admission.granted
    return admission.tolerate(step.error, chain)


def _suits_clients(der: bytes, depth: int) -> bool:
    try:
        return suits_clients(x509.load_der_x509_certificate(der), depth)
    except BAD_CERTIFICATE:
        return False


def _watch(connection: Connection, where: int, value: int) -> None:
    """OpenSSL's information callback: called at each step of a handshake, after its end too, and at each alert."""
    protocol: TLSProtocol = connection.get_app_data()
    if where & SSL.SSL_CB_LOOP:
        protocol.handshake_step()
    elif where == SSL.SSL_CB_WRITE_ALERT and value & 0xFF == _NO_RENEGOTIATION:
        protocol.renegotiation()


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _select_protocol(_connection: Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes new connections from the current context, and finds out who is at the other end.

    `now` gives seconds on a clock that only moves forward.
    """

    def __init__(self, context: Context, now: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._now = now
        self._forwarded: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    @property
    def context(self) -> Context:
        return self._context

    @context.setter
    def context(self, context: Context) -> None:
        self._context = context
        self._forwarded.clear()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> Connection:
        assert isinstance(protocol, TLSProtocol)
        settings = self._context.settings
        protocol.admission = Admission(settings.auth, settings.pinned)
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
        leaf = connection.get_peer_certificate()
        if leaf is None:
            return Peer(address, None, CertificateRequired())
        admission = transport.admission
        if not admission.granted:
            return None
        proven = _der(leaf)
        # On the server's side OpenSSL leaves the first out of the chain.
        chain = connection.get_peer_cert_chain() or ()
        if len(chain) > MAX_AUTHORITIES:
            admission.error = TOO_MANY
            return None
        others = [_der(certificate) for certificate in chain]
        try:
            leaves = [certificate for certificate in (proven, *others) if not is_authority(certificate)]
        except ValueError:
            admission.identity, admission.error = None, MALFORMED
            return None
        if len(leaves) > 1:
            return Peer(address, None, TooManyCertificates())
        if leaves != [proven]:
            return Peer(address, None, CertificateRequired())
        return Peer(address, admission.identity)

    def client(self, values: list[bytes]) -> Identity:
        """The identity of the client that a TLS proxy forwarded: URL-escaped PEM, in exactly one header."""
        if len(values) != 1 or len(values[0]) > MAX_FORWARDED:
            raise InvalidProxyRequest
        value, now = values[0], self._now()
        known = self._forwarded.get(value)
        if known is not None and now < known[1]:
            return known[0]
        try:
            # Where a plus stands for a blank, one of the base64 is escaped.
            escaped = value.replace(b"+", b" ") if b"BEGIN+CERTIFICATE" in value else value
            certificates = x509.load_pem_x509_certificates(unquote_to_bytes(escaped))
            authorities = [c for c in certificates if is_ca(c.public_bytes(Encoding.DER))]
            leaves = [c for c in certificates if c not in authorities]
            if len(leaves) != 1:
                raise InvalidProxyRequest
            admission = self._context.verify_forwarded(leaves[0], authorities)
        except BAD_CERTIFICATE:
            raise InvalidProxyRequest from None
        identity = admission.identity
        if identity is None or not admission.granted:
            log.warn(
                "refused the client certificate of identity {identity} that a TLS proxy forwards: {reason}. "
                "To admit it, {remedy}",
                identity=identity,
                reason=admission.reason,
                remedy=admission.remedy,
            )
            raise InvalidProxyRequest
        self._forwarded[value] = identity, now + _FORWARDED_TTL
        if len(self._forwarded) > _FORWARDED_REMEMBERED:
            self._forwarded.popitem(last=False)
        return identity

    def handshake_failed(self, transport: TLSMemoryBIOProtocol, reason: Failure) -> HandshakeFailure:
        """Log a handshake that came to nothing, with what would have admitted its client. Returns the reason's kind."""
        address = host_of(transport)
        assert isinstance(transport, TLSProtocol)
        admission = transport.admission
        if admission.error and not admission.granted:
            log.warn(
                "refused the client certificate of identity {identity} from {address}: {reason}. To admit it, {remedy}",
                identity=admission.identity or "<unknown>",
                address=address,
                reason=admission.reason,
                remedy=admission.remedy,
            )
            return HandshakeFailure.CERTIFICATE
        if not reason.check(SSL.Error):
            return HandshakeFailure.CLOSED
        text = _last_reason(reason)
        log.info("TLS handshake with {address} failed: {reason}", address=address, reason=text)
        if text == _NO_CERTIFICATE:
            return HandshakeFailure.CERTIFICATE
        return HandshakeFailure.ALERT if " alert " in text else HandshakeFailure.PROTOCOL


def host_of(transport: TLSMemoryBIOProtocol) -> str:
    """The peer's IP address; an IPv4 one also where it came to an IPv6 socket."""
    return str(transport.getPeer().host).removeprefix("::ffff:")


def _last_reason(failure: Failure) -> str:
    """The reason that OpenSSL gives last, which is the outermost."""
    errors = failure.value.args[0] if failure.value and failure.value.args else None
    return errors[-1][-1] if isinstance(errors, list) and errors else "unknown"
