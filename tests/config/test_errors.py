"""What configuration errors say, and what they keep to themselves."""

from __future__ import annotations

from kes.config.errors import ConfigError, InvalidTextError, quote


def test_quote() -> None:
    """The user's text is quoted, escaped and cut."""
    assert quote("a'b\n") == '"a\'b\\n"'
    assert quote("a" * 64) == repr("a" * 64)
    assert quote("a" * 65) == repr("a" * 64) + "…"


def test_secrets_are_not_quoted() -> None:
    """An API key or a private key in the wrong place is not repeated."""
    for secret in ("kes:v1:hunter2", "x kes:v1:hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2"):
        assert quote(secret) == "<a secret, not shown>"
        assert "hunter2" not in str(InvalidTextError(secret, "is wrong"))


def test_config_error() -> None:
    """An error is file, line, path and problem, as far as they are known."""
    assert str(ConfigError("c.yml", 3, "tls.key", "missing")) == "c.yml:3: tls.key: missing"
    assert str(ConfigError("c.yml", 3, "", "not YAML")) == "c.yml:3: not YAML"
    error = ConfigError("c.yml", None, "", "empty")
    assert (str(error), error.file, error.line, error.path, error.problem) == (
        "c.yml: empty",
        "c.yml",
        None,
        "",
        "empty",
    )
