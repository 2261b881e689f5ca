"""The section `keystore.aws.secretsmanager`: fields, absence and refusals (keystores.md 1.7 and 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kes.config.errors import ConfigError
from kes.config.loader import parse
from kes.config.model import Config
from kes.keystore.settings import AWSSettings

HEAD = "admin: {identity: disabled}\ntls: {key: k, cert: c}\nkeystore:\n  aws:\n    secretsmanager:\n"
NEEDED = "      endpoint: secretsmanager.us-east-2.amazonaws.com\n      region: us-east-2\n"
PATH = "keystore.aws.secretsmanager"
MINIMAL = AWSSettings("https://secretsmanager.us-east-2.amazonaws.com", "us-east-2")


def config(body: str, environ: Mapping[str, str] = {}) -> Config:
    return parse(HEAD + body, environ, file="c.yml")


def refusal(body: str, environ: Mapping[str, str] = {}) -> str:
    with pytest.raises(ConfigError) as caught:
        config(body, environ)
    return str(caught.value)


def test_minimal() -> None:
    """Endpoint and region are enough; a host becomes a URL."""
    loaded = config(NEEDED)
    assert (loaded.keystore, loaded.warnings) == (MINIMAL, ())


def test_every_field() -> None:
    """All fields are texts as written, also where they look like numbers."""
    body = "      kmskey: 0123\n      credentials: {accesskey: 1_000, secretkey: 12e45, token: on}\n"
    assert config(NEEDED + body).keystore == AWSSettings(
        MINIMAL.endpoint, "us-east-2", kmskey="0123", accesskey="1_000", secretkey="12e45", token="on"
    )


@pytest.mark.parametrize("raw", ["", "~", "''", "${EMPTY}"])
def test_nothing_is_absent(raw: str) -> None:
    """An optional field that is null or the empty text is as if it were not there, and so are credentials of such."""
    inner = "".join(f"        {name}: {raw}\n" for name in ("accesskey", "secretkey", "token"))
    loaded = config(f"{NEEDED}      kmskey: {raw}\n      credentials:\n{inner}", {"EMPTY": ""})
    assert (loaded.keystore, loaded.warnings) == (MINIMAL, ())
    assert config(f"{NEEDED}      credentials:\n").keystore == MINIMAL


def test_environment() -> None:
    """Every field can come from the environment; an unset variable is an error with its line."""
    names = ("endpoint", "region", "kmskey")
    body = "".join(f"      {name}: ${{{name}}}\n" for name in names)
    inner = "".join(f"        {name}: ${{{name}}}\n" for name in ("accesskey", "secretkey", "token"))
    body += f"      credentials:\n{inner}"
    environ = {name: name for name in (*names, "accesskey", "secretkey", "token")}
    assert config(body, environ).keystore == AWSSettings(
        "https://endpoint", "region", "kmskey", "accesskey", "secretkey", "token"
    )
    del environ["secretkey"]
    assert refusal(body, environ) == (
        f"c.yml:11: {PATH}.credentials.secretkey: the environment variable 'secretkey' is not set; set it, or write "
        "the value here"
    )


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("secretsmanager.eu-west-1.amazonaws.com/", "https://secretsmanager.eu-west-1.amazonaws.com"),
        ("' localhost:4566 '", "https://localhost:4566"),
        ("'[::1]:4566'", "https://[::1]:4566"),
        ("http://127.0.0.1:5000//", "http://127.0.0.1:5000"),
        (
            "https://vpce-1.secretsmanager.eu-west-1.vpce.amazonaws.com",
            "https://vpce-1.secretsmanager.eu-west-1.vpce.amazonaws.com",
        ),
    ],
)
def test_endpoint(text: str, endpoint: str) -> None:
    """A host, with a port or without, gets `https://`; a URL stays, without slashes at its end and blanks around it."""
    assert config(f"      endpoint: {text}\n      region: eu-west-1\n").keystore == AWSSettings(endpoint, "eu-west-1")


@pytest.mark.parametrize(
    "text", ["ftp://aws", "https://", "a b", "https://aws:port", "aws:70000", "aws?x=y", "aws#x", "äws", "http://:80"]
)
def test_endpoint_refused(text: str) -> None:
    """What is neither a host nor a URL is refused."""
    shown = text if "://" in text else f"https://{text}"
    assert refusal(f"      endpoint: '{text}'\n      region: r\n") == (
        f"c.yml:6: {PATH}.endpoint: '{shown}' is neither a host nor an http or https URL"
    )


def test_endpoint_with_a_password() -> None:
    """A user in the URL is refused, and neither name nor password is shown."""
    for text in ("https://me:hunter2@aws", "me:hunter2@aws", "${URL}"):
        message = refusal(f"      endpoint: '{text}'\n      region: r\n", {"URL": "https://me:hunter2@aws"})
        assert message.endswith(" has a user in front of it; write the URL without")
        assert "hunter2" not in message


@pytest.mark.parametrize("text", ["us east", "us-east-2.amazonaws.com", "-us", "us/", "a" * 64])
def test_region_refused(text: str) -> None:
    """A region is one label of a host name."""
    assert refusal(f"      endpoint: aws\n      region: '{text}'\n") == (
        f"c.yml:7: {PATH}.region: '{text}' is not an AWS region; write one such as us-east-2"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "      region: us-east-2\n",
            f"5: {PATH}.endpoint: missing; write the host of AWS Secrets Manager, such as "
            "secretsmanager.us-east-2.amazonaws.com",
        ),
        (
            "      endpoint: ''\n      region: us-east-2\n",
            f"6: {PATH}.endpoint: empty; write the host of AWS Secrets Manager, such as "
            "secretsmanager.us-east-2.amazonaws.com",
        ),
        ("      endpoint: aws\n", f"5: {PATH}.region: missing; write the AWS region, such as us-east-2"),
        (
            "      endpoint: aws\n      region: ''\n",
            f"7: {PATH}.region: empty; write the AWS region, such as us-east-2",
        ),
        (f"{NEEDED}      kmsKey: x\n", f"8: {PATH}: unknown field 'kmsKey'; did you mean 'kmskey'?"),
        (
            f"{NEEDED}      credentials: {{secret_key: hunter2}}\n",
            f"8: {PATH}.credentials: unknown field 'secret_key'; did you mean 'secretkey'?",
        ),
        (
            f"{NEEDED}      credentials: hunter2\n",
            f"8: {PATH}.credentials: expected a mapping, found a text; write 'name: value' lines",
        ),
        (
            f"{NEEDED}      credentials: {{secretkey: [hunter2]}}\n",
            f"8: {PATH}.credentials.secretkey: expected a text, found a list; write a single value",
        ),
    ],
)
def test_refused(body: str, message: str) -> None:
    """Endpoint and region are required, and the section is as strict as all others."""
    assert refusal(body) == f"c.yml:{message}"


@pytest.mark.parametrize("given", ["accesskey", "secretkey", "token"])
def test_half_a_pair(given: str) -> None:
    """One key without the other, or a token alone, loads with a warning, which does not repeat the value."""
    loaded = config(f"{NEEDED}      credentials:\n        {given}: hunter2\n")
    assert loaded.keystore == AWSSettings(MINIMAL.endpoint, "us-east-2", **{given: "hunter2"})
    (warning,) = loaded.warnings
    assert warning == (
        f"c.yml:8: {PATH}.credentials: accesskey and secretkey belong together; AWS will refuse one without the other"
    )


def test_secrets_stay_out_of_repr() -> None:
    """The repr of a config, which may land in a log, shows neither the secret key nor the token."""
    body = "      credentials: {accesskey: AKID, secretkey: hunter2, token: hunter2}\n"
    assert "hunter2" not in repr(config(NEEDED + body))


def test_sample() -> None:
    """The sample's section, uncommented, loads without a warning."""
    sample = (Path(__file__).parents[2] / "etc" / "kes" / "config.yml").read_text()
    section = re.search(r"^  # aws:\n((?:  # .*\n)*)", sample, re.MULTILINE)
    assert section is not None
    text = "".join(f"  {line.removeprefix('  # ')}\n" for line in section[0].splitlines())
    environ = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
    loaded = parse(HEAD.partition("  aws:")[0] + text, environ, file="c.yml")
    assert (loaded.keystore, loaded.warnings) == (
        AWSSettings(MINIMAL.endpoint, "us-east-2", accesskey="AKID", secretkey="secret"),
        (),
    )
