"""Listening addresses (contract section 1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.config import address
from kes.config.address import Address
from kes.config.errors import InvalidTextError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:7373", Address("0.0.0.0", 7373)),
        (":7000", Address("", 7000)),
        ("[::]:7373", Address("::", 7373)),
        ("[2001:db8::1]:1", Address("2001:db8::1", 1)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("127.0.0.1:65535", Address("127.0.0.1", 65535)),
    ],
)
def test_parse(text: str, expected: Address) -> None:
    """The host is an IP address or nothing, IPv6 in brackets; the text form gives it back."""
    assert address.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo:7373", "'foo' is not a valid IP address"),
        ("localhost:7373", "'localhost' is not a valid IP address"),
        ("1.2.3:1", "'1.2.3' is not a valid IP address"),
        ("010.0.0.1:1", "'010.0.0.1' is not a valid IP address"),
        ("[fe80::1%eth0]:1", "'fe80::1%eth0' is not a valid IP address"),
        (" 1.2.3.4:1", "' 1.2.3.4' is not a valid IP address"),
        ("1.2.3.4:", "'' is not a valid port: write a number from 0 to 65535"),
        ("1.2.3.4:65536", "'65536' is not a valid port: write a number from 0 to 65535"),
        ("1.2.3.4:-1", "'-1' is not a valid port: write a number from 0 to 65535"),
        (":http", "'http' is not a valid port: write a number from 0 to 65535"),
        (":\uff11", "'\uff11' is not a valid port: write a number from 0 to 65535"),
        ("", "'' is not an address: write IP:port or :port"),
        ("7373", "'7373' is not an address: write IP:port or :port"),
        ("::1:7373", "'::1:7373' is not an address: put an IPv6 address in brackets, as in [::]:7373"),
        ("[::1]", "'[::1]' is not an address: put an IPv6 address in brackets, as in [::]:7373"),
        ("a" * 65 + ":1", f"'{'a' * 64}'… is not a valid IP address"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """Names are not resolved, the port is required, and the message says what would be right."""
    with pytest.raises(InvalidTextError) as caught:
        address.parse(text)
    assert str(caught.value) == message


@given(st.text(alphabet=st.one_of(st.sampled_from("0123456789.:[]%"), st.characters()), max_size=30))
def test_only_one_error(text: str) -> None:
    """Whatever the text, there is an address that is stable under rendering, or an InvalidTextError."""
    try:
        parsed = address.parse(text)
    except InvalidTextError:
        return
    assert address.parse(str(parsed)) == parsed
