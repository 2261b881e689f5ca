"""Every bound that a peer meets, in one place: sizes in bytes, times in seconds.

Times are the contract's (README section 4); sizes leave room for the largest legal request, which is a 1 MiB body, or
a client certificate that a TLS proxy forwards in a header.
"""

from __future__ import annotations

from typing import Final

HANDSHAKE_TIMEOUT: Final = 10.0
HEAD_TIMEOUT: Final = 5.0  # from the first byte of a request to the last of its header
IDLE_TIMEOUT: Final = 90.0  # between requests, and for a peer that does not read what it asked for
LINGER_TIMEOUT: Final = 2.0  # for a peer that still sends after its last answer
CLOSE_TIMEOUT: Final = 30.0  # for the last answer to arrive, and for the peer's part in closing the connection
STOP_TIMEOUT: Final = 1.0  # for running requests when the server stops (cli.md 5.2)

MAX_HANDSHAKE: Final = 20 * 1024  # what a client sends before its TLS handshake is complete
MAX_LATER_STEPS: Final = 200  # of a TLS handshake after the first one; a KeyUpdate (RFC 8446, section 4.6.3) takes 5
MAX_HEAD: Final = 32 * 1024  # request line and headers with the empty line at their end
MAX_TARGET: Final = 8 * 1024  # the request line's target
MAX_HEADERS: Final = 100
MAX_BODY: Final = 1024 * 1024
MAX_CHUNK_LINE: Final = 256  # a chunk's size line with its extensions
MAX_TRAILERS: Final = 4 * 1024
MAX_PIPELINED: Final = 64 * 1024  # bytes read ahead of an unanswered request; then reading pauses
MAX_UNWRITTEN: Final = 64 * 1024  # bytes of answers gathered for one write
MAX_CONNECTIONS: Final = 16_384

# A subscriber of a log stream that does not keep up is dropped at this many bytes of events that it has not taken.
MAX_LOG_BACKLOG: Final = 2 * 1024 * 1024

# HTTP/2.
MAX_STREAMS: Final = 256  # requests under way on a connection, those among them whose streams the client has reset
MAX_HEAD_FRAMES: Final = 16  # that a header block may be cut into
CONNECTION_WINDOW: Final = 1024 * 1024  # bytes of DATA under way to the server
# Bytes of requests on their way and of answers that wait for a window, on a connection. Above it no more requests are
# taken; above twice as many, answers are given up.
MAX_HELD: Final = 16 * 1024 * 1024
MAX_IGNORED: Final = 512  # streams ended by the server, of which more may come
MAX_REMEMBERED_BLOCKS: Final = 64  # header blocks whose meaning a connection remembers
MAX_REMEMBERED_BLOCK: Final = 1024  # bytes of the longest of them
DRAIN_TIMEOUT: Final = 30.0  # for a client to move to a new connection; then no more streams are taken on the old one

# Streams that end before their answer, by the client's will or by its fault: at once, a second, and per answer.
RESETS: Final = 256
RESET_RATE: Final = 50.0
RESETS_PER_REQUEST: Final = 1

# Frames that bring no request forward (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, …), likewise.
EXTRA_FRAMES: Final = 2048
EXTRA_FRAME_RATE: Final = 100.0
EXTRA_FRAMES_PER_REQUEST: Final = 8
