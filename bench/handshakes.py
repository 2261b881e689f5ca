"""The CPU time of the server in TLS handshakes that it refuses, by what the client sends: `python bench/handshakes.py`.

It prints medians in milliseconds, and as multiples of a plain refused handshake, that of a self-signed certificate. It
runs in one process, without sockets. Clients prove the key of their own certificate; the signatures of the authorities'
certificates need not be valid. With `auth: off` many of the handshakes succeed; they are in the table too.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

sys.path.insert(0, str(Path(__file__).parent.parent))

from kes.server.tls import ServerTLS
from tests.certificates import Made, make
from tests.server.test_admission import ROOT, client, context
from tests.server.test_tls import Server
from tests.shapes import rsa_key, slow_rsa_key, small_certificate, tower

ROUNDS = 25


def names(count: int) -> list[x509.GeneralName]:
    return [x509.DNSName("a")] * count


def shapes() -> dict[str, list[Made]]:
    """What clients send, by name; the first is the plain one."""
    p384 = ec.generate_private_key(ec.SECP384R1())
    slow = slow_rsa_key(3072)
    small = make("a", key=Ed25519PrivateKey.generate(), ca=None)
    smallest = replace(small, certificate=small_certificate(ec.SECP521R1()))
    constraints = x509.NameConstraints(names(400), None)
    many_names = x509.SubjectAlternativeName(names(1500))
    return {
        "self-signed": [make("leaf")],
        "10 x RSA-3072, long exponent": tower(10, rsa_key(3072), slow.public_key()),
        "9 x RSA-3072, long exponent": tower(9, rsa_key(3072), slow.public_key()),
        "7 x P-384 up to a trusted root": tower(7, p384, top=ROOT),
        "9 x P-384": tower(9, p384),
        "2 x P-384": tower(2, p384),
        "8 x P-256": tower(8, ec.generate_private_key(ec.SECP256R1())),
        "10 x RSA-4096": tower(10, rsa_key(4096)),
        "80 small certificates": [make("leaf"), *[small] * 80],
        "200 small certificates": [make("leaf"), *[small] * 200],
        "110 smallest with P-521": [make("leaf"), *[smallest] * 110],
        "1500 names, 400 constraints x 4": tower(
            4, rsa_key(2048), extensions=[constraints], leaf_extensions=[x509.SubjectAlternativeName(names(1500))]
        ),
        "leaf: RSA-3072, long exponent": [make("leaf", key=slow)],
        "leaf: RSA-8192": [make("leaf", key=rsa_key(8192))],
        "leaf: P-521": [make("leaf", key=ec.generate_private_key(ec.SECP521R1()))],
        "leaf: brainpoolP512r1": [make("leaf", key=ec.generate_private_key(ec.BrainpoolP512R1()))],
        "leaf: 1500 names": [make("leaf", extensions=[many_names])],
        "leaf: 17 kB of names": [make("leaf", extensions=[x509.SubjectAlternativeName(names(5700))])],
    }


def handshake(tls: ServerTLS, using: SSL.Context) -> float:
    """The server's CPU seconds for a connection, from its begin to its end."""
    peer = SSL.Connection(using, None)
    peer.set_connect_state()
    began = time.thread_time()
    server = Server(tls)
    spent = time.thread_time() - began

    def serve(act: Callable[[], bytes]) -> bytes:
        nonlocal spent
        began = time.thread_time()
        answer = act()
        spent += time.thread_time() - began
        return answer

    while True:
        with suppress(SSL.Error):
            peer.do_handshake()
        try:
            sent = peer.bio_read(1 << 20)
        except SSL.WantReadError:
            break
        if got := serve(lambda sent=sent: server.exchange(sent)):  # type: ignore[misc]
            peer.bio_write(got)
    serve(lambda: server.close() or b"")  # type: ignore[func-returns-value]
    return spent


def main() -> None:
    made = shapes()
    modes = {
        "on": lambda _: context(True),
        "default": lambda _: context(None),
        "pinned": lambda chain: context(None, chain[0].identity),
        "off": lambda _: context(False),
    }
    print(f"{'':34}" + "".join(f"{mode:>16}" for mode in modes))
    plain, plain_tls = client(next(iter(made.values()))), ServerTLS(context(None))
    for name, chain in made.items():
        using = client(chain)
        line = f"{name:34}"
        for of in modes.values():
            tls = ServerTLS(of(chain))
            # By turns, as the machine's speed varies.
            rounds = [(handshake(tls, using), handshake(plain_tls, plain)) for _ in range(ROUNDS)]
            spent, base = (statistics.median(times) * 1000 for times in zip(*rounds, strict=True))
            line += f"{spent:9.2f} {spent / base:5.1f}x"
        print(line, flush=True)


main()
