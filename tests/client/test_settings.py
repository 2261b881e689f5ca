"""Where a client's settings come from, and which are refused."""

from __future__ import annotations

import pytest

from kes.client import ConfigurationError, Settings
from tests.support import ADMIN, APP

KEY = {"MINIO_KES_API_KEY": str(ADMIN)}


@pytest.mark.parametrize("name", ["MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"])
def test_server(name: str) -> None:
    """Each variable's alias names the server; what is given wins over it."""
    assert Settings.from_environment({**KEY, name: "a:1"}).server == "a:1"
    assert Settings.from_environment({**KEY, name: "a:1"}, server="b:2").server == "b:2"


def test_default_server() -> None:
    """Without any, the server is the local one."""
    assert Settings.from_environment(KEY).server == "127.0.0.1:7373"


@pytest.mark.parametrize("name", ["MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"])
def test_api_key(name: str) -> None:
    """Each alias gives the API key."""
    assert Settings.from_environment({name: "key"}).api_key == "key"


@pytest.mark.parametrize(
    ("cert", "key"),
    [
        ("MINIO_KES_CERT_FILE", "MINIO_KES_KEY_FILE"),
        ("KES_CLIENT_CERT", "KES_CLIENT_KEY"),
        ("MINIO_KES_CLIENT_CERT", "MINIO_KES_CLIENT_KEY"),
        ("MINIO_KMS_KES_CERT_FILE", "MINIO_KMS_KES_KEY_FILE"),
    ],
)
def test_files(cert: str, key: str) -> None:
    """Each alias gives the certificate and the key file."""
    settings = Settings.from_environment({cert: "c", key: "k"})
    assert (settings.cert_file, settings.key_file, settings.api_key) == ("c", "k", None)


def test_the_first_variable_wins_and_empty_is_unset() -> None:
    """An alias counts only if those before it are unset or empty (D7)."""
    environ = {"MINIO_KES_SERVER": "", "KES_SERVER": "b", "MINIO_KMS_KES_ENDPOINT": "c", "KES_API_KEY": "x"}
    assert Settings.from_environment(environ).server == "b"
    assert Settings.from_environment({**environ, "MINIO_KES_SERVER": "a"}).server == "a"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "MINIO_KES_API_KEY"),
        ({"MINIO_KES_API_KEY": ""}, "MINIO_KES_API_KEY"),
        ({**KEY, "MINIO_KES_KEY_FILE": "k"}, "private key file"),
        ({**KEY, "MINIO_KES_CERT_FILE": "c"}, "certificate file"),
        ({"MINIO_KES_KEY_FILE": "k"}, "MINIO_KES_CERT_FILE"),
        ({"MINIO_KES_CERT_FILE": "c"}, "MINIO_KES_KEY_FILE"),
    ],
)
def test_incomplete_credentials(environ: dict[str, str], named: str) -> None:
    """Credentials that are missing, half there or of both kinds are refused; the error names what is."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        Settings.from_environment(environ)
    assert str(ADMIN) not in str(caught.value)


def test_what_is_given_overrides_the_other_kind() -> None:
    """A credential that is given makes those of the other kind in the environment not count."""
    files = {"MINIO_KES_KEY_FILE": "k", "MINIO_KES_CERT_FILE": "c"}
    by_key = Settings.from_environment(files, api_key=str(APP))
    assert (by_key.api_key, by_key.key_file, by_key.cert_file) == (str(APP), None, None)
    by_files = Settings.from_environment(KEY, key_file="k", cert_file="c")
    assert (by_files.api_key, by_files.key_file) == (None, "k")
    mixed = Settings.from_environment({**KEY, "MINIO_KES_CERT_FILE": "c"}, key_file="k")
    assert (mixed.api_key, mixed.cert_file) == (None, "c")
    with pytest.raises(ConfigurationError):
        Settings.from_environment({}, api_key="a", key_file="k", cert_file="c")


def test_secrets_are_not_shown() -> None:
    """The repr shows neither API key nor password, nor the environment that may hold them."""
    secret = Settings.from_environment({**KEY, "OTHER": "hidden"})
    files = Settings(cert_file="c", key_file="k", password="hidden")
    for text in (repr(secret), repr(files)):
        assert str(ADMIN) not in text
        assert "hidden" not in text
