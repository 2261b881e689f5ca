"""Which certificates are admitted: the same ones in handshakes and forwarded, and at a bounded cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from kes.errors import InvalidProxyRequest
from kes.identity import Identity
from kes.server.http.limits import MAX_HANDSHAKE
from kes.server.tls import Context, ServerTLS, Settings, verify
from kes.server.verification import Step, set_verify
from tests.certificates import ANY, NOW, SERVER, Made, key_usage, make
from tests.server.keyupdate import KeyUpdates
from tests.server.test_tls import MODES, SERVER_CERT, SERVER_KEY, Server, escaped, logged, raw
from tests.shapes import rsa_key, slow_rsa_key, tower

__all__ = ["logged"]


def by_sha1(made: Made, signer: rsa.RSAPrivateKey) -> Made:
    """The same certificate with a signature by SHA-1 and RSA, which the cryptography library does not make any more."""
    sha256, sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    signed = made.certificate.tbs_certificate_bytes.replace(sha256, sha1)
    numbers = signer.private_numbers()
    size = signer.key_size // 8
    digest = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(signed, usedforsecurity=False).digest()
    padded = b"\0\1" + b"\xff" * (size - 3 - len(digest)) + b"\0" + digest  # RFC 8017, section 9.2
    signature = pow(int.from_bytes(padded, "big"), numbers.d, numbers.public_numbers.n).to_bytes(size, "big")
    der = made.der.replace(sha256, sha1).replace(made.certificate.signature, signature)
    return Made(x509.load_der_x509_certificate(der), made.key)


P384 = partial(ec.generate_private_key, ec.SECP384R1())
ROOT = make("root", ca=True)
STRONG_ROOT = make("strong root", ca=True, key=rsa_key(4096))
WEAK_ROOT = make("weak root", ca=True, key=rsa_key(1024))
WEAK_MIDDLE = make("weak middle", ROOT, ca=True, key=rsa_key(1024))
OLD_MIDDLE = by_sha1(make("old middle", STRONG_ROOT, ca=True), rsa_key(4096))
SERVER_MIDDLE = make("server middle", ROOT, ca=True, usages=[SERVER])
ANY_MIDDLE = make("any middle", ROOT, ca=True, usages=[ANY])
NO_AUTHORITY = make("client", ROOT, usages=[ANY])
NO_SIGNER = make("no signer", ROOT, ca=True, usages=[ANY], extensions=[key_usage(digital_signature=True)])
TRUSTED = [ROOT, STRONG_ROOT, WEAK_ROOT]


def context(auth: bool | None, pinned: Identity | None = None) -> Context:
    settings = Settings("server.crt", "server.key", auth=auth, pinned=frozenset({pinned} if pinned else ()))
    return Context(settings, SERVER_CERT, SERVER_KEY, [root.certificate for root in TRUSTED])


def client(chain: Sequence[Made]) -> SSL.Context:
    """A client that sends whatever it has."""
    using = SSL.Context(SSL.TLS_CLIENT_METHOD)
    using.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    using.use_certificate(chain[0].certificate)
    using.use_privatekey(chain[0].key)  # type: ignore[arg-type]
    for made in chain[1:]:
        using.add_extra_chain_cert(made.certificate)
    return using


def by_handshake(made: Context, chain: Sequence[Made]) -> bool:
    application, _, _ = raw(ServerTLS(made), client(chain))
    return application.peer is not None and application.peer.identity == chain[0].identity


def forwarded(made: Context, chain: Sequence[Made]) -> bool:
    try:
        return ServerTLS(made).client([escaped(chain)]) == chain[0].identity
    except InvalidProxyRequest:
        return False


@dataclass(frozen=True)
class Verdict:
    """A chain, and whether it is admitted where it is verified, with a pinned identity, and with `off`."""

    chain: list[Made]
    on: bool
    pinned: bool = True
    off: bool = True


def long_line(key: Callable[[], ec.EllipticCurvePrivateKey]) -> list[Made]:
    """A client's certificate with eight authorities between it and the root."""
    chain = [ROOT]
    for n in range(8):
        chain.insert(0, make(f"authority {n}", chain[0], ca=True, key=key()))
    return [make("leaf", chain[0]), *chain[:-1]]


VERDICTS = {
    "P-256": Verdict([make("leaf", ROOT)], True),
    "P-521": Verdict([make("leaf", ROOT, key=ec.generate_private_key(ec.SECP521R1()))], True),
    "Ed25519": Verdict([make("leaf", ROOT, key=Ed25519PrivateKey.generate())], True),
    "Ed448": Verdict([make("leaf", ROOT, key=Ed448PrivateKey.generate())], True),
    "RSA-2048": Verdict([make("leaf", ROOT, key=rsa_key(2048))], True),
    "RSA-8192": Verdict([make("leaf", ROOT, key=rsa_key(8192))], True),
    "RSA-1024": Verdict([make("leaf", ROOT, key=rsa_key(1024))], False),
    "RSA over 8192 bits": Verdict([make("leaf", ROOT, public_key=rsa_key(8200).public_key())], False, False, False),
    "long exponent": Verdict([make("leaf", ROOT, key=slow_rsa_key(3072))], False, False, False),
    "DSA": Verdict([make("leaf", ROOT, key=dsa.generate_private_key(2048))], False, False, False),
    "P-192": Verdict([make("leaf", ROOT, key=ec.generate_private_key(ec.SECP192R1()))], False, False, False),
    "brainpool": Verdict([make("leaf", ROOT, key=ec.generate_private_key(ec.BrainpoolP256R1()))], False, False, False),
    "large": Verdict(
        [make("leaf", ROOT, extensions=[x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 140)])],
        False,
        False,
        False,
    ),
    "SHA-1": Verdict([by_sha1(make("leaf", STRONG_ROOT), rsa_key(4096))], False),
    "SHA-1 in the middle": Verdict([make("leaf", OLD_MIDDLE), OLD_MIDDLE], False),
    "weak root": Verdict([make("leaf", WEAK_ROOT)], False),
    "weak authority": Verdict([make("leaf", WEAK_MIDDLE), WEAK_MIDDLE], False),
    "for anything": Verdict([make("leaf", ROOT, usages=[ANY])], True),
    "for anything, to sign": Verdict(
        [make("leaf", ROOT, usages=[ANY], extensions=[key_usage(digital_signature=True)])], True
    ),
    "for anything, but not to sign": Verdict(
        [make("leaf", ROOT, usages=[ANY], extensions=[key_usage(key_encipherment=True)])], False
    ),
    "by an authority for anything": Verdict([make("leaf", ANY_MIDDLE), ANY_MIDDLE], True),
    "for anything, by an authority for servers": Verdict(
        [make("leaf", SERVER_MIDDLE, usages=[ANY]), SERVER_MIDDLE], False
    ),
    # Two certificates that are no authority's are one too many in any mode.
    "by a client for anything": Verdict([make("leaf", NO_AUTHORITY), NO_AUTHORITY], False, False, False),
    "by an authority for anything, but not to sign certificates": Verdict([make("leaf", NO_SIGNER), NO_SIGNER], False),
    "expired": Verdict([make("leaf", ROOT, until=NOW)], False),
    "untrusted": Verdict([make("leaf")], False),
    "eight P-384 authorities": Verdict(long_line(P384), True, False),
    "eight RSA-4096 authorities": Verdict(tower(8, rsa_key(4096), top=STRONG_ROOT), True),
    "untrusted P-384 authorities": Verdict(tower(3, P384()), False, False),
    "two untrusted P-384 authorities": Verdict(tower(2, P384()), False),
    "long exponent in the middle": Verdict(tower(2, rsa_key(3072), slow_rsa_key(3072).public_key()), False, False),
    "many constraints": Verdict(
        tower(
            2,
            rsa_key(2048),
            extensions=[x509.NameConstraints([x509.DNSName("a")] * 300, None)],
            leaf_extensions=[x509.SubjectAlternativeName([x509.DNSName("a")] * 600)],
        ),
        False,
        False,
    ),
}


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS)
@pytest.mark.parametrize("way", [by_handshake, forwarded])
def test_same_rules(verdict: Verdict, way: Callable[[Context, Sequence[Made]], bool]) -> None:
    """A certificate is admitted or refused alike, by a handshake and by way of a TLS proxy."""
    chain = verdict.chain
    identity = chain[0].identity
    admitted = [way(context(auth), chain) for auth in MODES.values()]
    assert admitted == [verdict.on, verdict.on, verdict.off]
    # An identity that is pinned needs no authority; errors of its own chain cost it nothing.
    assert way(context(None, identity), chain) is (verdict.pinned or verdict.on)
    assert way(context(True, identity), chain) is verdict.on


@pytest.mark.parametrize(("mode", "pinned"), [("on", False), ("default", False), ("default", True), ("off", False)])
def test_no_signature_is_checked(mode: str, pinned: bool, logged: list[str]) -> None:
    """Ten untrusted authorities with keys that take long: refused before a signature is checked, or not looked at."""
    chain = tower(10, rsa_key(3072), slow_rsa_key(3072).public_key())
    identity = chain[0].identity
    steps = []

    def watched(connection: SSL.Connection, step: Step) -> bool:
        steps.append((step.error, step.depth, len(step.chain())))
        return verify(connection, step)

    made = context(MODES[mode], identity if pinned else None)
    set_verify(made.ssl, SSL.VERIFY_PEER, watched)
    admitted = by_handshake(made, chain)
    if mode == "off":
        # OpenSSL looks at the client's certificate alone.
        assert admitted
        assert {(depth, length) for _, depth, length in steps} == {(0, 1)}
        return
    assert not admitted
    # The issuer of the last of nine authorities is not looked for any more. No other step comes after this one.
    assert steps == [(22, 9, 10)]
    (line,) = logged
    why = "the authorities sent with it are too costly to verify" if pinned else "its chain is too long"
    assert line.startswith(f"warn: refused the client certificate of identity {identity} from 192.0.2.7: {why}. ")


def test_forged_trust() -> None:
    """A chain that only names a trusted authority as its issuer costs one signature's check, by the trusted key."""
    steps = []

    def watched(connection: SSL.Connection, step: Step) -> bool:
        steps.append((step.error, step.depth))
        return verify(connection, step)

    made = context(None)
    set_verify(made.ssl, SSL.VERIFY_PEER, watched)
    assert not by_handshake(made, tower(7, P384(), top=ROOT))
    # The root, then the signature that should be the root's, and nothing below.
    assert steps == [(0, 8), (7, 7)]


@pytest.mark.parametrize("mode", MODES)
def test_large_handshake(mode: str, logged: list[str]) -> None:
    """A client that sends too much before its handshake is complete is cut off, before all of it is read."""
    authorities = [make(f"authority {n}", ca=True) for n in range(MAX_HANDSHAKE // 300)]
    assert sum(len(made.der) for made in authorities) > MAX_HANDSHAKE
    assert not by_handshake(context(MODES[mode]), [make("leaf", ROOT), *authorities])
    assert logged == [
        "warn: refused the client certificate of identity <unknown> from 192.0.2.7: the client's part of the TLS "
        "handshake is too large. To admit it, have the client send its own certificate alone"
    ]


def test_large_handshake_in_pieces(logged: list[str]) -> None:
    """It is the sum that counts."""
    server = Server(ServerTLS(context(None)))
    record = b"\x16\x03\x01\x40\x00"
    hello = record + b"\x01\x00\xf0\x00" + bytes(0x4000 - 4) + record + bytes(0x4000)
    for at in range(0, MAX_HANDSHAKE, 1024):
        assert server.exchange(hello[at : at + 1024]) == b""
    assert not server.closed
    server.exchange(b"\0")
    assert server.closed
    assert len(logged) == 1


def test_content_after_a_handshake() -> None:
    """What a client sends right after its handshake, in one piece with the handshake's end, does not count."""
    server = Server(ServerTLS(context(None)))
    using = SSL.Connection(client([make("leaf", ROOT)]), None)
    using.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        using.do_handshake()
    using.bio_write(server.exchange(using.bio_read(1 << 16)))
    using.do_handshake()
    content = bytes(range(256)) * 256
    assert len(content) > MAX_HANDSHAKE
    using.sendall(content)
    using.bio_write(server.exchange(using.bio_read(1 << 20)))
    got = b""
    while len(got) < len(content):
        got += using.recv(1 << 16)
    assert got == content


@pytest.mark.parametrize("mode", MODES)
def test_many_authorities(mode: str, logged: list[str]) -> None:
    """Ten authorities may come along, eleven not, whether they belong to the chain or not."""
    leaf, foreign = make("leaf", ROOT), make("foreign", ca=True)
    for way in (by_handshake, forwarded):
        assert way(context(MODES[mode]), [leaf, *[foreign] * 10])
        assert not way(context(MODES[mode]), [leaf, *[foreign] * 11])
    assert [line.partition(": ")[2].partition(": ")[2][:51] for line in logged] == [
        "more than 10 authorities are sent with it. To admit"
    ] * 2


# What a client can make the server write without a request


def test_renegotiation(logged: list[str]) -> None:
    """The first attempt at a second handshake ends the connection (TLS 1.2)."""
    using = client([make("leaf", ROOT)])
    using.set_max_proto_version(SSL.TLS1_2_VERSION)
    application, peer, turn = raw(ServerTLS(context(None)), using)
    assert application.peer is not None
    peer.renegotiate()
    turn()
    assert application.transport._aborted
    assert logged == ["info: closed the connection of 192.0.2.7: it asks for new TLS handshakes or keys"]


def test_key_updates(logged: list[str]) -> None:
    """A client of TLS 1.3 may change keys now and then, and have the server do so, but not without end."""
    using = client([make("leaf", ROOT)])
    updates = KeyUpdates(using)
    application, _, _ = raw(ServerTLS(context(None)), using)
    tls = application.transport
    written = tls.transport
    written.clear()
    sent = 0
    while not tls._aborted:
        tls.dataReceived(updates.record())
        sent += 1
        assert sent <= 41
    assert sent > 32
    assert len(written.value()) < 41 * 30
    assert logged == ["info: closed the connection of 192.0.2.7: it asks for new TLS handshakes or keys"]


def test_key_updates_in_one_read() -> None:
    """However many come at once, the answers are no more than fit the read, and the connection ends."""
    using = client([make("leaf", ROOT)])
    updates = KeyUpdates(using)
    application, _, _ = raw(ServerTLS(context(None)), using)
    tls = application.transport
    tls.transport.clear()
    data = b"".join(updates.record() for _ in range(2000))
    tls.dataReceived(data)
    assert tls._aborted
    assert len(tls.transport.value()) <= len(data)
