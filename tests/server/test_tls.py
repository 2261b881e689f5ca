"""Who gets in, and as whom: the server's TLS against real clients, whose bytes are carried over in memory."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.certificate import make_client_certificate, make_server_certificate
from kes.errors import CertificateRequired, InvalidProxyRequest, TooManyCertificates
from kes.identity import APIKey, of_certificate
from kes.server.admission import Admission
from kes.server.http.request import Peer
from kes.server.metrics import HandshakeFailure
from kes.server.tls import (
    MAX_FILE,
    MAX_FORWARDED,
    Context,
    ServerTLS,
    Settings,
    TLSError,
    TLSFactory,
    stamp,
)
from tests.certificates import ANY, CLIENT, NOW, SERVER, Made, key_usage, make

# Certificates


def line(root: Made, length: int) -> list[Made]:
    """A leaf and `length` authorities between it and the root."""
    chain = [root]
    for n in range(length):
        chain.insert(0, make(f"authority {n}", chain[0], ca=True))
    return [make("leaf", chain[0]), *chain[:-1]]


ROOT, FOREIGN = make("root", ca=True), make("foreign", ca=True)
MIDDLE = make("middle", ROOT, ca=True)
NARROW = make("narrow", ca=True, extensions=[x509.NameConstraints([x509.DNSName("example.org")], None)])
TRUSTED = [ROOT, make("trusted middle", make("unseen root", ca=True), ca=True), NARROW]


@dataclass(frozen=True)
class Case:
    """A chain that a client sends, and why it is refused where it is verified; `alert` is what the client is told."""

    chain: list[Made]
    reason: str = ""
    alert: str = ""
    remedy: str = "add its authority to tls.ca"


REPLACE = "replace the certificate"
EXPIRED_MIDDLE = make("old middle", ROOT, ca=True, until=NOW - timedelta(hours=1))
SERVER_MIDDLE = make("server middle", ROOT, ca=True, usages=[SERVER])
NO_SIGNER = make("no signer", ROOT, ca=True, extensions=[key_usage(digital_signature=True)])
ANY_MIDDLE = make("any middle", ROOT, ca=True, usages=[ANY])
UNKNOWN_CA, EXPIRED = (
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
)
PURPOSE = "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"

CASES = {
    "by the root": Case([make("leaf", ROOT)]),
    "for clients": Case([make("leaf", ROOT, usages=[CLIENT, SERVER], extensions=[key_usage(digital_signature=True)])]),
    "for anything": Case([make("leaf", ROOT, usages=[ANY])]),
    "for anything and servers": Case([make("leaf", ROOT, usages=[ANY, SERVER])]),
    "by an authority for anything": Case([make("leaf", ANY_MIDDLE, usages=[ANY]), ANY_MIDDLE]),
    "version 1 style": Case([make("leaf", ROOT, ca=None)]),
    "by an authority sent along": Case([make("leaf", MIDDLE), MIDDLE]),
    "by an authority sent with its root": Case([make("leaf", MIDDLE), MIDDLE, ROOT]),
    "by a trusted authority that is no root": Case([make("leaf", TRUSTED[1])]),
    "eight authorities": Case(line(ROOT, 8)),
    "within the constraint": Case(
        [make("leaf", NARROW, extensions=[x509.SubjectAlternativeName([x509.DNSName("a.example.org")])])]
    ),
    "nine authorities": Case(line(ROOT, 9), "its chain is too long", UNKNOWN_CA, REPLACE),
    "beyond the constraint": Case(
        [make("leaf", NARROW, extensions=[x509.SubjectAlternativeName([x509.DNSName("a.example.net")])])],
        "verification error 47",
        "",
        REPLACE,
    ),
    "missing authority": Case([make("leaf", MIDDLE)], "its issuer is not known", UNKNOWN_CA),
    "foreign authority": Case([make("leaf", FOREIGN)], "its issuer is not known", UNKNOWN_CA),
    "foreign authority sent along": Case(
        [make("leaf", FOREIGN), FOREIGN], "its chain ends in an authority that is not trusted", UNKNOWN_CA
    ),
    "the root's name": Case([make("leaf", make("root", ca=True))], "its signature is not its issuer's", "", REPLACE),
    "self-signed": Case([make("alone")], "it is self-signed", UNKNOWN_CA),
    "expired": Case([make("leaf", ROOT, until=NOW - timedelta(hours=1))], "it has expired", EXPIRED, REPLACE),
    "not yet": Case([make("leaf", ROOT, since=NOW + timedelta(hours=1))], "it is not valid yet", "", REPLACE),
    "for servers": Case([make("leaf", ROOT, usages=[SERVER])], "it is not for client authentication", PURPOSE, REPLACE),
    "for anything but signatures": Case(
        [make("leaf", ROOT, usages=[ANY], extensions=[key_usage(key_encipherment=True)])],
        "it is not for client authentication",
        PURPOSE,
        REPLACE,
    ),
    "for encryption": Case(
        [make("leaf", ROOT, extensions=[key_usage(key_encipherment=True)])],
        "it is not for client authentication",
        PURPOSE,
        REPLACE,
    ),
    "expired authority": Case([make("leaf", EXPIRED_MIDDLE), EXPIRED_MIDDLE], "it has expired", EXPIRED, REPLACE),
    "an authority for servers": Case(
        [make("leaf", SERVER_MIDDLE), SERVER_MIDDLE], "it is not for client authentication", PURPOSE, REPLACE
    ),
    "an authority that may not sign": Case(
        [make("leaf", NO_SIGNER), NO_SIGNER], "an issuer in its chain is no authority", UNKNOWN_CA, REPLACE
    ),
}
MODES = {"on": True, "default": None, "off": False}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
modes = pytest.mark.parametrize("mode", MODES)
versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])

# Both ends of a connection

SERVER_CERT, SERVER_KEY = make_server_certificate([], NOW)
PEER = IPv4Address("TCP", "192.0.2.7", 4711)


def context(**settings: object) -> Context:
    made = replace(Settings(cert="server.crt", key="server.key"), **settings)  # type: ignore[arg-type]
    return Context(made, SERVER_CERT, SERVER_KEY, [authority.certificate for authority in TRUSTED])


@implementer(IHandshakeListener)
class Application(Protocol):
    """What is above TLS: asks who came, as the HTTP connection does, and sends back what it gets."""

    def __init__(self, tls: ServerTLS) -> None:
        self.tls = tls
        self.peer: Peer | None = None
        self.failure: HandshakeFailure | None = None

    def handshakeCompleted(self) -> None:
        self.peer = self.tls.peer(self.transport)
        if self.peer is None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer is None:
            self.failure = self.tls.handshake_failed(self.transport, reason)


class Server:
    """One connection of the server's side."""

    def __init__(self, tls: ServerTLS, address: IPv4Address | IPv6Address = PEER) -> None:
        factory = Factory.forProtocol(lambda: self.application)
        factory.noisy = False
        self.application = Application(tls)
        self._protocol = TLSFactory(tls, False, factory, Clock()).buildProtocol(address)
        self._transport = StringTransport(peerAddress=address)
        self._protocol.makeConnection(self._transport)
        self.closed = False

    def exchange(self, data: bytes) -> bytes:
        """Give it what the client sent; what it sends back."""
        if data and not self.closed:
            self._protocol.dataReceived(data)
        if (self._transport.disconnecting or self._transport.disconnected) and not self.closed:
            self.closed = True
            self._protocol.connectionLost(Failure(ConnectionDone()))
        sent: bytes = self._transport.value()
        self._transport.clear()
        return sent

    def close(self) -> None:
        self._transport.disconnecting = True
        self.exchange(b"")


class Client:
    """One connection of a client's side, by the standard library's TLS."""

    def __init__(self, server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._server = server
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost", session=session)
        self.alert = ""
        self.received = b""
        self._done = False
        self.turn()

    def turn(self) -> None:
        """Carry bytes until neither side has any more to say."""
        moved = True
        while moved:
            try:
                if not self._done:
                    self.tls.do_handshake()
                    self._done = True
                self.received += self.tls.read(1000)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self.alert = self.alert or error.reason
            sent = self._out.read()
            got = self._server.exchange(sent)
            self._in.write(got)
            moved = bool(sent or got)

    def echo(self, data: bytes) -> bytes:
        self.received = b""
        self.tls.write(data)
        self.turn()
        return self.received


@pytest.fixture
def dial(tmp_path: Path) -> Iterator[Callable[..., tuple[Application, Client]]]:
    """Connects a client that sends a chain of certificates, of whose first it has the key."""
    servers: list[Server] = []

    def dial(
        tls: ServerTLS | Context,
        chain: Sequence[Made | Odd] = (),
        *,
        address: IPv4Address | IPv6Address = PEER,
        session: ssl.SSLSession | None = None,
        using: ssl.SSLContext | None = None,
        **settings: object,
    ) -> tuple[Application, Client]:
        using = using or ssl._create_unverified_context()
        for name, value in settings.items():
            setattr(using, name, value)
        if chain:
            path = tmp_path / "chain.pem"
            path.write_bytes(chain[0].key_pem + b"".join(made.pem for made in chain))
            using.load_cert_chain(path)
        server = Server(ServerTLS(tls) if isinstance(tls, Context) else tls, address)
        servers.append(server)
        return server.application, Client(server, using, session)

    yield dial
    for server in servers:
        server.close()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines that are logged, each with its level's name in front."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


Dial = Callable[..., tuple[Application, Client]]

# Who gets in


@cases
@modes
@versions
def test_verification(dial: Dial, logged: list[str], case: Case, mode: str, version: ssl.TLSVersion) -> None:
    """Verified, a chain must be whole, in time, for clients and end in a trusted authority; with `off` any will do."""
    application, client = dial(context(auth=MODES[mode]), case.chain, minimum_version=version, maximum_version=version)
    if mode == "off" or not case.reason:
        assert application.peer == Peer("192.0.2.7", case.chain[0].identity)
        assert client.echo(b"hello") == b"hello"
        assert logged == []
        return
    assert application.peer is None
    other = "set tls.auth to off" if mode == "on" else "assign the identity to a policy"
    assert logged == [
        f"warn: refused the client certificate of identity {case.chain[0].identity} from 192.0.2.7: {case.reason}. "
        f"To admit it, {case.remedy}, or {other}"
    ]
    if case.alert:
        assert client.alert == case.alert


@cases
def test_pinned(dial: Dial, logged: list[str], case: Case) -> None:
    """By default an identity that the configuration names gets in, whatever is wrong with its certificate or chain."""
    pinned = frozenset({case.chain[0].identity})
    application, _ = dial(context(pinned=pinned), case.chain)
    assert application.peer == Peer("192.0.2.7", case.chain[0].identity)
    assert logged == []


@cases
def test_pinned_is_not_enough(dial: Dial, case: Case) -> None:
    """With `on`, naming an identity lets nobody in."""
    application, _ = dial(context(auth=True, pinned=frozenset({case.chain[0].identity})), case.chain)
    assert (application.peer is None) == bool(case.reason)


def test_pinned_authority(dial: Dial) -> None:
    """It is the leaf's identity that is pinned: an authority's lets none of its certificates in."""
    application, _ = dial(context(pinned=frozenset({FOREIGN.identity})), [make("leaf", FOREIGN), FOREIGN])
    assert application.peer is None


def test_system_authorities(dial: Dial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system's authorities are trusted beside those of tls.ca."""
    path = tmp_path / "system.pem"
    path.write_bytes(FOREIGN.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for issuer in (FOREIGN, ROOT):
        application, _ = dial(context(auth=True), [make("leaf", issuer)])
        assert application.peer is not None


@modes
def test_nobody_by_default(dial: Dial, mode: str) -> None:
    """A handshake that comes to its end without a look at the certificate lets nobody in."""
    made = context(auth=MODES[mode], pinned=frozenset({TRUSTED_LEAF.identity}))
    made.ssl.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    application, _ = dial(made, [TRUSTED_LEAF])
    assert application.peer is None
    assert application.transport._aborted


TRUSTED_LEAF = make("leaf", ROOT)


@modes
@versions
def test_certificate_required(dial: Dial, logged: list[str], mode: str, version: ssl.TLSVersion) -> None:
    """A client without a certificate is refused in the handshake."""
    application, client = dial(context(auth=MODES[mode]), minimum_version=version, maximum_version=version)
    assert application.peer is None
    required = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert client.alert == (required if version is ssl.TLSVersion.TLSv1_3 else "SSLV3_ALERT_HANDSHAKE_FAILURE")
    assert logged == ["info: TLS handshake with 192.0.2.7 failed: peer did not return a certificate"]
    assert application.failure is HandshakeFailure.CERTIFICATE


@modes
def test_certificate_optional(dial: Dial, mode: str) -> None:
    """Where a route needs no identity, a client may come without a certificate, but not with a bad one."""
    made = context(auth=MODES[mode], optional=True)
    application, client = dial(made)
    peer = application.peer
    assert peer is not None
    assert peer.identity is None
    assert type(peer.refusal) is CertificateRequired
    assert client.echo(b"hello") == b"hello"
    application, _ = dial(made, [TRUSTED_LEAF])
    assert application.peer == Peer("192.0.2.7", TRUSTED_LEAF.identity)
    application, _ = dial(made, CASES["self-signed"].chain)
    assert (application.peer is not None) == (mode == "off")


# As whom


def refusal(application: Application) -> object:
    peer = application.peer
    assert peer is not None
    assert peer.identity is None
    return type(peer.refusal)


def test_authorities_are_passed_over(dial: Dial) -> None:
    """Authorities sent along do not count, whether they belong to the chain or not (contract section 2)."""
    leaf = make("leaf", MIDDLE)
    application, _ = dial(context(auth=False), [leaf, FOREIGN, MIDDLE, ROOT])
    assert application.peer == Peer("192.0.2.7", leaf.identity)


def test_two_leaves(dial: Dial) -> None:
    """Two certificates that are no authority's are one too many: which is meant?"""
    application, _ = dial(context(auth=False), [make("one"), make("two")])
    assert refusal(application) is TooManyCertificates
    application, _ = dial(context(auth=False), [make("one"), MIDDLE, make("two")])
    assert refusal(application) is TooManyCertificates
    application, _ = dial(context(auth=False), [ALONE, ALONE])
    assert refusal(application) is TooManyCertificates


def test_only_an_authority(dial: Dial) -> None:
    """An authority's own certificate names no client."""
    application, _ = dial(context(auth=False), [ROOT])
    assert refusal(application) is CertificateRequired


@modes
def test_only_a_proven_key_names(dial: Dial, mode: str) -> None:
    """Who proves the key of an authority's certificate and sends another's along does not become that other."""
    attacker, victim = make("attacker", ROOT, ca=True), make("victim")
    pinned = frozenset({attacker.identity, victim.identity})
    application, _ = dial(context(auth=MODES[mode], pinned=pinned), [attacker, victim])
    assert refusal(application) is CertificateRequired


def version_2(made: Made) -> bytes:
    return made.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1)


def odd(oid: str, value: str) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), bytes.fromhex(value))


ALTERNATIVE_NAME, BASIC_CONSTRAINTS = "2.5.29.17", "2.5.29.19"
RARE_NAME = make("rare", extensions=[odd(ALTERNATIVE_NAME, "3008a506a1040c026162")])


@dataclass(frozen=True)
class Odd:
    """A certificate by its bytes alone, as the cryptography library cannot read it."""

    der: bytes
    key_pem: bytes

    @property
    def pem(self) -> bytes:
        return ssl.DER_cert_to_PEM_cert(self.der).encode()


def raw(tls: ServerTLS, using: SSL.Context) -> tuple[Application, SSL.Connection, Callable[[], None]]:
    """A client by pyOpenSSL, and what carries its bytes."""
    server = Server(tls)
    client = SSL.Connection(using, None)
    client.set_connect_state()

    def turn() -> None:
        for _ in range(10):
            for act in (client.do_handshake, lambda: client.recv(1000)):
                with suppress(SSL.Error):
                    act()
            try:
                sent = client.bio_read(1 << 16)
            except SSL.WantReadError:
                sent = b""
            got = server.exchange(sent)
            if got:
                client.bio_write(got)

    turn()
    return server.application, client, turn


@pytest.mark.parametrize(
    "made",
    [Odd(version_2(TRUSTED_LEAF), TRUSTED_LEAF.key_pem), Odd(RARE_NAME.der, RARE_NAME.key_pem)],
    ids=["version 2", "rare name"],
)
def test_odd_certificates(dial: Dial, made: Odd, logged: list[str]) -> None:
    """A certificate that the cryptography library cannot take apart gets its answer like any other."""
    identity = of_certificate(made.der)
    application, _ = dial(context(auth=False), [made])
    assert application.peer == Peer("192.0.2.7", identity)
    application, _ = dial(context(), [made])
    assert application.peer is None
    assert len(logged) == 1
    assert logged[0].startswith(f"warn: refused the client certificate of identity {identity} ")


def long_signed_part() -> Odd:
    """A certificate whose signed part has a length with a zero in front, which is not DER."""
    der = TRUSTED_LEAF.der
    body = bytes((0x30, der[5] + 1, 0)) + der[6:]
    return Odd(b"\x30\x82" + len(body).to_bytes(2, "big") + body, TRUSTED_LEAF.key_pem)


def long_extension() -> Odd:
    """The same in an extension, which the identity does not depend on."""
    made = make("x", ca=None, extensions=[odd("1.2.3.4", "0500")])
    der = made.der.replace(bytes.fromhex("a30d300b3009"), bytes.fromhex("a30e300c308109"))
    size = 6 + (der[5] & 0x7F)
    signed_part = int.from_bytes(der[6:size], "big") + 1
    body = der[4:6] + signed_part.to_bytes(size - 6, "big") + der[size:]
    return Odd(b"\x30\x82" + len(body).to_bytes(2, "big") + body, made.key_pem)


@pytest.mark.parametrize("make_odd", [long_signed_part, long_extension])
def test_malformed_certificate(dial: Dial, logged: list[str], make_odd: Callable[[], Odd]) -> None:
    """A certificate that is not DER, though OpenSSL takes it, is refused even with `off`, and in so many words."""
    application, _ = dial(context(auth=False), [make_odd()])
    assert application.peer is None
    assert logged == [
        "warn: refused the client certificate of identity <unknown> from 192.0.2.7: it is malformed. "
        "To admit it, make the certificate anew"
    ]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (IPv4Address("TCP", "192.0.2.7", 1), "192.0.2.7"),
        (IPv6Address("TCP", "2001:db8::7", 1), "2001:db8::7"),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 1), "192.0.2.7"),
    ],
)
def test_address(dial: Dial, address: IPv4Address | IPv6Address, expected: str) -> None:
    """The peer's address is an IPv4 one also where it came to an IPv6 socket."""
    application, _ = dial(context(), [TRUSTED_LEAF], address=address)
    assert application.peer is not None
    assert application.peer.address == expected


# The protocol


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions(dial: Dial, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are not spoken."""
    using = ssl._create_unverified_context()
    using.set_ciphers("ALL:@SECLEVEL=0")
    application, client = dial(
        context(auth=False), [TRUSTED_LEAF], using=using, minimum_version=version, maximum_version=version
    )
    assert application.peer is None
    assert client.alert == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize(
    ("cipher", "spoken"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA", False),
        ("ECDHE-ECDSA-AES128-CCM", False),
    ],
)
def test_ciphers(dial: Dial, cipher: str, spoken: bool) -> None:
    """Under TLS 1.2 there are only authenticated ciphers with forward secrecy."""
    using = ssl._create_unverified_context()
    using.set_ciphers(cipher + ":@SECLEVEL=0")
    application, client = dial(context(auth=False), [TRUSTED_LEAF], using=using, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert (application.peer is not None) == spoken
    if spoken:
        assert client.tls.cipher()[0] == cipher


@pytest.mark.parametrize("kind", ["kRSA", "kDHE", "aNULL", "kPSK"])
def test_key_exchanges(kind: str) -> None:
    """No cipher of another key exchange than ECDHE is offered for TLS 1.2, whatever the server's key."""
    names = [name for name in SSL.Connection(context().ssl, None).get_cipher_list() if not name.startswith("TLS_")]
    assert names
    using = ssl._create_unverified_context()
    using.set_ciphers(f"{kind}:@SECLEVEL=0")
    assert not {cipher["name"] for cipher in using.get_ciphers() if not cipher["name"].startswith("TLS_")} & set(names)


@versions
def test_no_resumption(dial: Dial, version: ssl.TLSVersion) -> None:
    """A session is never resumed, so every connection is verified by the rules that hold when it is made."""
    tls = ServerTLS(context(auth=False))
    using = ssl._create_unverified_context()
    chain = CASES["self-signed"].chain
    application, client = dial(tls, chain, using=using, minimum_version=version, maximum_version=version)
    assert application.peer is not None
    client.echo(b"hello")
    session = client.tls.session
    application, again = dial(tls, using=using, session=session)
    assert application.peer is not None
    assert not again.tls.session_reused
    tls.context = context()
    application, refused = dial(tls, using=using, session=session)
    assert application.peer is None
    assert refused.alert == UNKNOWN_CA


def test_no_renegotiation() -> None:
    """A client cannot make the server do a second handshake on a connection (TLS 1.2)."""
    using = SSL.Context(SSL.TLS_CLIENT_METHOD)
    using.set_max_proto_version(SSL.TLS1_2_VERSION)
    using.use_certificate(TRUSTED_LEAF.certificate)
    using.use_privatekey(TRUSTED_LEAF.key)
    application, client, turn = raw(ServerTLS(context()), using)
    assert application.peer is not None
    handle = application.transport.getHandle()
    client.renegotiate()
    turn()
    assert client.renegotiate_pending()
    assert handle.total_renegotiations() == 0


def test_no_authorities_are_named() -> None:
    """The server names no authorities: Go's clients hide a certificate that does not match such a list."""
    using = SSL.Context(SSL.TLS_CLIENT_METHOD)
    using.use_certificate(TRUSTED_LEAF.certificate)
    using.use_privatekey(TRUSTED_LEAF.key)
    application, client, _ = raw(ServerTLS(context(auth=True)), using)
    assert application.peer is not None
    assert client.get_client_ca_list() == []


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["http/1.1"], "http/1.1"),
        (["h2", "http/1.1"], "h2"),
        (["http/1.1", "h2"], "h2"),
        (["h2"], "h2"),
        (["h3", "http/1.0"], None),
        ([], None),
    ],
)
def test_alpn(dial: Dial, offered: list[str], chosen: str | None) -> None:
    """HTTP/2 is chosen where it is offered, else HTTP/1.1; a client that offers only others is told of none."""
    using = ssl._create_unverified_context()
    if offered:
        using.set_alpn_protocols(offered)
    application, client = dial(context(), [TRUSTED_LEAF], using=using)
    assert application.peer is not None
    assert client.tls.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(70000), b"\0" * 100])
def test_rubbish(rubbish: bytes, logged: list[str]) -> None:
    """What is no TLS ends the connection, with one line in the log."""
    server = Server(ServerTLS(context()))
    server.exchange(rubbish)
    server.close()
    assert server.application.peer is None
    assert server.application.failure is (HandshakeFailure.PROTOCOL if logged else HandshakeFailure.CLOSED)
    assert len(logged) <= 1
    assert all(line.startswith("info: TLS handshake with 192.0.2.7 failed: ") for line in logged)


def test_silent_peer(logged: list[str]) -> None:
    """A peer that goes away before the handshake is over is no event."""
    server = Server(ServerTLS(context()))
    server.close()
    assert server.application.failure is HandshakeFailure.CLOSED
    assert logged == []


@versions
def test_client_that_does_not_trust_the_server(dial: Dial, logged: list[str], version: ssl.TLSVersion) -> None:
    """A client that breaks off because of the server's certificate is told apart from one that is refused."""
    using = ssl.create_default_context()
    application, _ = dial(context(), [TRUSTED_LEAF], using=using, minimum_version=version, maximum_version=version)
    assert application.failure is HandshakeFailure.ALERT
    assert logged == ["info: TLS handshake with 192.0.2.7 failed: tlsv1 alert unknown ca"]


def test_nothing_in_common(dial: Dial, logged: list[str]) -> None:
    """A client that speaks no cipher of the server's is refused for the protocol."""
    using = ssl._create_unverified_context()
    using.set_ciphers("AES128-SHA")
    application, _ = dial(context(), [TRUSTED_LEAF], using=using, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert application.failure is HandshakeFailure.PROTOCOL
    assert logged == ["info: TLS handshake with 192.0.2.7 failed: no shared cipher"]


def test_expiry() -> None:
    """A context knows when the first certificate of its chain expires."""
    soon = make("middle", ROOT, ca=True, until=NOW + timedelta(hours=1))
    own = named()
    settings = Settings(cert="server.crt", key="server.key")
    for chain, first in (([own], own), ([own, soon], soon)):
        made = Context(settings, b"".join(link.pem for link in chain), own.key_pem)
        assert made.expires == first.certificate.not_valid_after_utc.timestamp()


# TLS proxies


def escaped(chain: Sequence[Made], escape: Callable[[str], str] = lambda text: quote(text, safe="")) -> bytes:
    return escape("".join(made.pem.decode() for made in chain)).encode()


@cases
@modes
def test_forwarded(case: Case, mode: str, logged: list[str]) -> None:
    """A certificate that a TLS proxy forwards is verified like one of a handshake, and a refusal is logged like one."""
    tls = ServerTLS(context(auth=MODES[mode]))
    if mode == "off" or not case.reason:
        assert tls.client([escaped(case.chain)]) == case.chain[0].identity
        assert logged == []
    else:
        with pytest.raises(InvalidProxyRequest):
            tls.client([escaped(case.chain)])
        other = "set tls.auth to off" if mode == "on" else "assign the identity to a policy"
        assert logged == [
            f"warn: refused the client certificate of identity {case.chain[0].identity} that a TLS proxy forwards: "
            f"{case.reason}. To admit it, {case.remedy}, or {other}"
        ]


@cases
def test_forwarded_pinned(case: Case) -> None:
    """By default a forwarded certificate with a pinned identity needs no authority."""
    pinned = frozenset({case.chain[0].identity})
    assert ServerTLS(context(pinned=pinned)).client([escaped(case.chain[:1])]) == case.chain[0].identity
    if case.reason:
        with pytest.raises(InvalidProxyRequest):
            ServerTLS(context(auth=True, pinned=pinned)).client([escaped(case.chain)])


@pytest.mark.parametrize("escape", [quote, quote_plus, lambda text: quote(text, safe="+/="), lambda text: text])
def test_escapes(escape: Callable[[str], str]) -> None:
    """However much of the PEM text is escaped, and with a blank as %20 or as a plus, it is the same certificate."""
    # So many that the base64 has a plus or a slash in it.
    for made in (make("one"), make("two"), make("three")):
        assert ServerTLS(context(auth=False)).client([escaped([made], escape)]) == made.identity


ALONE = make("alone")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [escaped([ALONE]), escaped([ALONE])],
        [b""],
        [b"rubbish"],
        [b"%"],
        [b"%ff%zz"],
        [escaped([ALONE])[:-40]],
        [escaped([ALONE]).replace(b"MII", b"MIJ")],
        [quote(ALONE.key_pem).encode()],
        [escaped([ALONE, make("second")])],
        [escaped([ALONE, ALONE])],
        [escaped([ROOT])],
        [escaped([ALONE]) + b"%0A" * MAX_FORWARDED],
        [b"-----BEGIN CERTIFICATE-----"],
    ],
)
def test_bad_header(values: list[bytes]) -> None:
    """No header, two of them, or one without exactly one readable client certificate, is the proxy's error."""
    with pytest.raises(InvalidProxyRequest):
        ServerTLS(context(auth=False)).client(values)


@pytest.mark.parametrize(
    "made",
    [
        RARE_NAME,
        make("twice", ROOT, extensions=[odd(ALTERNATIVE_NAME, "3003820161"), odd("2.5.29.18", "3003820161")]),
        make("broken", ca=None, extensions=[odd(BASIC_CONSTRAINTS, "30030101")]),
        TRUSTED_LEAF,
    ],
    ids=["rare name", "a name twice", "broken constraints", "version 2"],
)
@modes
def test_odd_forwarded_certificates(made: Made, mode: str) -> None:
    """Whatever is wrong with a forwarded certificate, it names its client or is the proxy's error; nothing else."""
    der = version_2(made) if made is TRUSTED_LEAF else made.der
    der = der.replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d11"))
    pem = ssl.DER_cert_to_PEM_cert(der)
    for pinned in (frozenset[str](), frozenset({made.identity})):
        try:
            identity = ServerTLS(context(auth=MODES[mode], pinned=pinned)).client([quote(pem).encode()])
        except InvalidProxyRequest:
            continue
        assert identity == made.identity
        assert mode == "off" or (mode == "default" and pinned)


FORWARDING = [ServerTLS(context(auth=mode)) for mode in MODES.values()]
FUZZED = make(
    "fuzzed",
    ROOT,
    usages=[CLIENT],
    extensions=[key_usage(digital_signature=True), x509.SubjectAlternativeName([x509.DNSName("a.example.org")])],
).der


# The library warns of a serial number that is not positive, which a later release is to refuse.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.lists(st.tuples(st.integers(0, len(FUZZED) - 1), st.integers(0, 255)), max_size=3))
def test_damaged_forwarded_certificates(changes: list[tuple[int, int]]) -> None:
    """However a forwarded certificate is damaged, it is an identity or the proxy's error, in every mode."""
    der = bytearray(FUZZED)
    for at, value in changes:
        der[at] = value
    for tls in FORWARDING:
        with suppress(InvalidProxyRequest):
            assert tls.client([quote(ssl.DER_cert_to_PEM_cert(bytes(der))).encode()]) == of_certificate(bytes(der))


class Counting(Context):
    """Counts how often it verifies."""

    verified = 0

    def verify_forwarded(self, certificate: x509.Certificate, untrusted: list[x509.Certificate]) -> Admission:
        self.verified += 1
        return super().verify_forwarded(certificate, untrusted)


def test_forwarded_is_remembered() -> None:
    """A header that was verified is not for a minute, then again; and again when the rules may have changed."""
    now = [1000.0]
    settings = Settings(cert="server.crt", key="server.key", auth=False)
    tls = ServerTLS(Counting(settings, SERVER_CERT, SERVER_KEY), lambda: now[0])

    def ask(header: bytes = escaped([ALONE])) -> int:
        assert tls.client([header]) == ALONE.identity
        assert isinstance(tls.context, Counting)
        return tls.context.verified

    assert [ask(), ask()] == [1, 1]
    now[0] += 59.9
    assert ask() == 1
    now[0] += 0.1
    assert [ask(), ask()] == [2, 2]
    tls.context = Counting(settings, SERVER_CERT, SERVER_KEY)
    assert [ask(), ask()] == [1, 1]
    # No more than so many are remembered.
    for n in range(1024):
        ask(b"%d" % n + escaped([ALONE]))
    assert ask() == 1026
    tls.context = context()
    with pytest.raises(InvalidProxyRequest):
        tls.client([escaped([ALONE])])


# The server's own files


@dataclass
class Files:
    """The server's files, in a directory of the test."""

    folder: Path
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(cert=str(self.folder / "server.crt"), key=str(self.folder / "server.key"))
        self.write(SERVER_CERT, SERVER_KEY)

    def write(self, cert: bytes, key: bytes) -> None:
        Path(self.settings.cert).write_bytes(cert)
        Path(self.settings.key).touch(0o600)
        Path(self.settings.key).write_bytes(key)

    def fails(self, what: str, **settings: object) -> None:
        """Loading fails with one line, `what`, in which `/` alone stands for the directory."""
        with pytest.raises(TLSError) as raised:
            Context.load(replace(self.settings, **settings))  # type: ignore[arg-type]
        assert str(raised.value).replace(f"{self.folder}/", "/") == what
        assert raised.value.__cause__ is None


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_missing_files(files: Files) -> None:
    """A file that cannot be read is named, with the system's reason."""
    files.fails("tls.cert /other: No such file or directory", cert=str(files.folder / "other"))
    files.fails("tls.key /other: No such file or directory", key=str(files.folder / "other"))
    files.fails("tls.ca /other: No such file or directory", ca=str(files.folder / "other"))
    (files.folder / "folder").mkdir()
    files.fails("tls.cert /folder: Is a directory", cert=str(files.folder / "folder"))
    files.fails("tls.key /folder: Is a directory", key=str(files.folder / "folder"))
    files.fails("tls.ca /folder: the directory holds no file", ca=str(files.folder / "folder"))


def test_large_files(files: Files) -> None:
    """A file of more than 4 MiB is not read into memory."""
    with (files.folder / "large").open("wb") as large:
        large.truncate(MAX_FILE + 1)
    files.fails("tls.cert /large: is larger than 4194304 bytes", cert=str(files.folder / "large"))
    files.fails("tls.ca /large: is larger than 4194304 bytes", ca=str(files.folder / "large"))


@pytest.mark.parametrize(
    "cert",
    [b"", b"rubbish", SERVER_KEY, SERVER_CERT[:-40], version_2(TRUSTED_LEAF)],
    ids=["empty", "rubbish", "key", "cut", "DER"],
)
def test_no_certificate(files: Files, cert: bytes) -> None:
    """A file without a readable certificate says so, for the server's own and for authorities."""
    (files.folder / "bad").write_bytes(cert)
    files.fails("tls.cert /bad: holds no valid PEM certificate", cert=str(files.folder / "bad"))
    files.fails("tls.ca /bad: holds no valid PEM certificate", ca=str(files.folder / "bad"))


def test_certificate_version(files: Files) -> None:
    """A certificate of a version that does not exist is no valid one."""
    (files.folder / "bad").write_text(ssl.DER_cert_to_PEM_cert(version_2(TRUSTED_LEAF)))
    files.fails("tls.cert /bad: holds no valid PEM certificate", cert=str(files.folder / "bad"))


@pytest.mark.parametrize("made", [make("no name"), RARE_NAME], ids=["none", "unreadable"])
def test_alternative_name(files: Files, made: Made) -> None:
    """A certificate without a subject alternative name is refused: no client would take it."""
    files.write(made.pem, made.key_pem)
    files.fails(
        "tls.cert /server.crt: the certificate has no subject alternative name (SAN), so no client would accept it; "
        "make one with a DNS name or IP address"
    )


def test_key_of_another_certificate(files: Files) -> None:
    """Certificate and key must belong together."""
    files.write(SERVER_CERT, make_server_certificate([], NOW)[1])
    files.fails(
        f"tls.key /server.key: does not belong to the certificate in {files.settings.cert}".replace(
            f"{files.folder}/", "/"
        )
    )
    files.write(SERVER_CERT, make_client_certificate(APIKey(bytes(32)), NOW)[1])  # of another kind
    files.fails("tls.key /server.key: does not belong to the certificate in /server.crt")


def named(issuer: Made | None = None, **more: datetime) -> Made:
    return make("server", issuer, extensions=[x509.SubjectAlternativeName([x509.DNSName("localhost")])], **more)


def test_password(files: Files) -> None:
    """An encrypted key is opened with tls.password; a missing or wrong one is said, and never repeated."""
    made = named()
    sealed = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s\xc3\xa9same"))
    files.write(made.pem, sealed)
    files.fails("tls.key /server.key: the private key is encrypted, and no password is given")
    files.fails("tls.key /server.key: incorrect password, or not a valid private key", password="hunter2")
    settings = replace(files.settings, password="sésame")
    Context.load(settings)
    assert "same" not in repr(settings)


def test_expired_certificate(files: Files) -> None:
    """The server starts with an expired certificate of its own, and warns."""
    made = named(until=NOW - timedelta(hours=1))
    files.write(made.pem, made.key_pem)
    (warning,) = Context.load(files.settings).warnings
    assert warning.startswith(f"tls.cert {files.settings.cert}: the certificate expired on ")
    assert context().warnings == []


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, None),  # a service's group may read what root owns
        (0o644, "everybody on this machine may read it (mode 0644); run chmod o=,g-w"),
        (0o660, "its group may change it (mode 0660); run chmod o=,g-w"),
        (0o602, "everybody on this machine may change it (mode 0602); run chmod o=,g-w"),
        (0o666, "everybody on this machine may change it (mode 0666); run chmod o=,g-w"),
    ],
)
def test_mode_of_the_private_key(files: Files, mode: int, warning: str | None) -> None:
    """A private key that others can read or change is used, as it always was, and warned about."""
    path = Path(files.settings.key)
    path.chmod(mode)
    expected = [] if warning is None else [f"tls.key {path}: {warning} {path}"]
    assert Context.load(files.settings).warnings == expected


def test_chain_is_sent(files: Files, dial: Dial) -> None:
    """The authorities behind the server's certificate in its file are sent to clients."""
    made = named(MIDDLE)
    files.write(made.pem + MIDDLE.pem, made.key_pem)
    using = ssl.create_default_context(cadata=ROOT.pem.decode())
    using.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 asks for key identifiers, which these lack
    application, client = dial(Context.load(replace(files.settings, auth=False)), [ALONE], using=using)
    assert application.peer is not None
    assert client.alert == ""


def test_directory_of_authorities(files: Files, dial: Dial) -> None:
    """Every file of the directory is read, links to files too, but not its directories; one bad file spoils it."""
    folder = files.folder / "ca"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.pem").write_bytes(MIDDLE.pem + b"text between\n" + ROOT.pem)
    (files.folder / "two").write_bytes(FOREIGN.pem)
    (folder / "link").symlink_to(files.folder / "two")
    settings = replace(files.settings, ca=str(folder), auth=True)
    for issuer in (ROOT, MIDDLE, FOREIGN):
        application, _ = dial(Context.load(settings), [make("leaf", issuer)])
        assert application.peer is not None
    (folder / "README").write_text("not PEM")
    files.fails("tls.ca /ca/README: holds no valid PEM certificate", ca=str(folder))


def test_changed_files(files: Files) -> None:
    """A file's change shows in the stamp: new content, another file in its place, its end, one more authority."""
    folder = files.folder / "ca"
    folder.mkdir()
    (folder / "one").write_bytes(ROOT.pem)
    settings = replace(files.settings, ca=str(folder))
    cert, moment = Path(settings.cert), 1_800_000_000
    os.utime(cert, (moment, moment))
    seen = [stamp(settings)]
    assert stamp(settings) == seen[0]
    cert.write_bytes(bytes(len(SERVER_CERT)))
    os.utime(cert, (moment, moment + 1))
    seen.append(stamp(settings))
    cert.write_bytes(SERVER_CERT + b"\n")
    os.utime(cert, (moment, moment + 1))
    seen.append(stamp(settings))
    (files.folder / "new").write_bytes(SERVER_CERT + b"\n")
    os.utime(files.folder / "new", (moment, moment + 1))
    (files.folder / "new").replace(cert)
    seen.append(stamp(settings))
    (folder / "two").write_bytes(FOREIGN.pem)
    seen.append(stamp(settings))
    Path(settings.key).unlink()
    seen.append(stamp(settings))
    assert len(set(seen)) == 6


def test_new_context(files: Files, dial: Dial) -> None:
    """New connections get the new certificate and rules; those that stand live on with the old ones."""
    tls = ServerTLS(Context.load(replace(files.settings, auth=False)))
    application, old = dial(tls, [ALONE])
    assert application.peer is not None
    made = named()
    files.write(made.pem, made.key_pem)
    tls.context = Context.load(replace(files.settings, pinned=frozenset({TRUSTED_LEAF.identity})))
    assert old.echo(b"still there") == b"still there"
    application, _ = dial(tls, [ALONE])
    assert application.peer is None
    application, new = dial(tls, [TRUSTED_LEAF])
    assert application.peer is not None
    assert new.tls.getpeercert(binary_form=True) == made.der
    assert old.tls.getpeercert(binary_form=True) != made.der


def test_context_swapped_in_a_handshake(dial: Dial, logged: list[str]) -> None:
    """A handshake is decided, and its refusal explained, by the rules that it began under."""
    tls = ServerTLS(context())
    server = Server(tls)
    tls.context = context(auth=False)
    using = SSL.Context(SSL.TLS_CLIENT_METHOD)
    using.use_certificate(ALONE.certificate)
    using.use_privatekey(ALONE.key)
    client = SSL.Connection(using, None)
    client.set_connect_state()
    for _ in range(4):
        with pytest.raises(SSL.WantReadError) if not server.closed else pytest.raises(SSL.Error):
            client.do_handshake()
            client.recv(1)
        try:
            client.bio_write(server.exchange(client.bio_read(1 << 16)))
        except SSL.WantReadError:
            break
    assert server.application.peer is None
    assert logged[0].endswith("To admit it, add its authority to tls.ca, or assign the identity to a policy")
