"""Reads what TLS records hold, many at once.

Clients put each request, over HTTP/2 each frame, into a record of its own, so that one read from the network brings
dozens. pyOpenSSL gives each in a call of its own that costs several times what OpenSSL needs for it; here its library
is called in a loop. Should a later pyOpenSSL not have what that takes, its own calls are made, slower.
"""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

RECORD: Final = 16 * 1024  # bytes of the longest (RFC 8446, section 5.1)
_BUFFER: Final = 16 * RECORD

try:
    from OpenSSL._util import ffi, lib

    _new = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    _wants_read = lib.SSL_get_error(_new._ssl, lib.SSL_read(_new._ssl, ffi.NULL, 0)) == lib.SSL_ERROR_WANT_READ
except (ImportError, AttributeError):
    _buffer = None
else:
    # One for all connections: only the reactor's thread reads.
    _buffer = ffi.new("char[]", _BUFFER)


def read_records(connection: SSL.Connection) -> tuple[bytes, bool]:
    """What the records hold that are there in full, and whether that is all.

    If it is not, there is more, or the end of the connection, or an error: the next `recv` tells.
    """
    if _buffer is None:
        return _read_one_by_one(connection)
    read, ssl = lib.SSL_read, connection._ssl
    size = 0
    while size <= _BUFFER - RECORD:
        count = read(ssl, _buffer + size, RECORD)
        if count <= 0:
            return ffi.buffer(_buffer, size)[:], lib.SSL_get_error(ssl, count) == lib.SSL_ERROR_WANT_READ
        size += count
    return ffi.buffer(_buffer, size)[:], False


def _read_one_by_one(connection: SSL.Connection) -> tuple[bytes, bool]:
    records = []
    try:
        while True:
            records.append(connection.recv(RECORD))
    except SSL.WantReadError:
        return b"".join(records), True
    except SSL.Error:
        return b"".join(records), False
