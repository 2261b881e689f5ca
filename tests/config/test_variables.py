"""`${NAME}` from a service's credentials. From the environment: test_loader.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kes.config.errors import ConfigError
from kes.config.loader import parse
from kes.config.variables import MAX_CREDENTIAL
from kes.keystore.settings import FSSettings

CONFIG = "admin: {identity: disabled}\ntls: {key: k, cert: c}\nkeystore: {fs: {path: '${NAME}'}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What systemd makes of LoadCredential."""
    folder = tmp_path / "credentials"
    folder.mkdir(0o700)
    return folder


def path(text: str, **environ: object) -> str:
    """The key store's path in a config file, which is where the variable stands."""
    settings = parse(text, {name: str(value) for name, value in environ.items()}, file="c.yml").keystore
    assert isinstance(settings, FSSettings)
    return settings.path


def refusal(text: str, **environ: object) -> str:
    with pytest.raises(ConfigError) as caught:
        path(text, **environ)
    assert caught.value.__cause__ is None
    return str(caught.value).removeprefix("c.yml:3: keystore.fs.path: ")


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"secret", "secret"), (b"secret\n", "secret"), (b"secret\r\n", "secret"), (b"a\nb \n\n", "a\nb \n")],
)
def test_credential(folder: Path, content: bytes, value: str) -> None:
    """A name that is no variable is a credential's, whose text counts without the newline that editors put there."""
    (folder / "NAME").write_bytes(content)
    assert path(CONFIG, CREDENTIALS_DIRECTORY=folder) == value


def test_variable_wins(folder: Path) -> None:
    """What worked before there were credentials works as before."""
    (folder / "NAME").write_text("from the credential")
    assert path(CONFIG, CREDENTIALS_DIRECTORY=folder, NAME="from the environment") == "from the environment"


NEITHER = (
    "there is neither an environment variable nor a credential {}; set the one in the unit's EnvironmentFile or the "
    "other by LoadCredential, or write the value here"
)


def test_neither(folder: Path) -> None:
    """Without either the error says where both could come from."""
    assert refusal(CONFIG, CREDENTIALS_DIRECTORY=folder) == NEITHER.format("'NAME'")
    assert refusal(CONFIG, CREDENTIALS_DIRECTORY=folder / "nowhere") == NEITHER.format("'NAME'")
    assert refusal(CONFIG).startswith("the environment variable 'NAME' is not set;")


@pytest.mark.parametrize("name", ["../outside", "sub/inside", "/etc/hostname", ".", "..", "", "a\0b"])
def test_name_is_no_path(folder: Path, name: str) -> None:
    """A credential's name leads nowhere but into its folder."""
    (folder.parent / "outside").write_text("o")
    (folder / "sub").mkdir()
    (folder / "sub" / "inside").write_text("i")
    text = CONFIG.replace("'${NAME}'", '"${' + name.replace("\0", "\\0") + '}"')
    assert refusal(text, CREDENTIALS_DIRECTORY=folder) == NEITHER.format(repr(name))


def test_unusable(folder: Path) -> None:
    """What cannot be read, is too large or is no text is an error that does not repeat it."""
    credential = folder / "NAME"
    credential.write_bytes(b"hunter2\xff")
    assert refusal(CONFIG, CREDENTIALS_DIRECTORY=folder) == "the credential 'NAME' is not UTF-8 text"
    credential.write_bytes(b"x" * (MAX_CREDENTIAL + 1))
    assert refusal(CONFIG, CREDENTIALS_DIRECTORY=folder) == "the credential 'NAME' is larger than 1048576 bytes"
    credential.unlink()
    credential.mkdir()
    assert refusal(CONFIG, CREDENTIALS_DIRECTORY=folder) == "the credential 'NAME' cannot be read: Is a directory"


def test_value_is_not_repeated(folder: Path) -> None:
    """A credential that is wrong in its place is named, not shown."""
    (folder / "NAME").write_text("hunter2")
    text = CONFIG.replace("'${NAME}'", "d") + "address: ${NAME}\n"
    with pytest.raises(ConfigError) as caught:
        path(text, CREDENTIALS_DIRECTORY=folder)
    assert "hunter2" not in str(caught.value)
    assert "the value of '${NAME}' is not an address" in str(caught.value)
