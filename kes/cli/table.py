"""Every command, option and argument of `kes`: the one source of parsing, help, completion, manual and reference.

How to add a command is said in kes.cli.command. The order here is the order in help.
"""

from __future__ import annotations

from dataclasses import replace

from kes.cli.command import Argument, Command, Option, duration, one_of

JSON = Option("json", "Print one JSON document.")
_when = one_of("auto", "always", "never")
COLOR = Option(
    "color",
    "When to use colours: auto, always or never. Auto is on a terminal only, and heeds NO_COLOR and CLICOLOR_FORCE.",
    value="WHEN",
    parse=lambda text: _when(text or "auto"),
    choices=("auto", "always", "never"),
    default="auto",
)
OUTPUT = (JSON, COLOR)  # every command has these

PASSWORD_FILE = Option(
    "password-file",
    "Read the password of the private key from the first line of this file.",
    value="FILE",
    variables=("KES_KEY_PASSWORD_FILE", "KES_KEY_PASSWORD"),
)

# Every command that talks to a server has these, and how to find it and prove who is asking is read from them by
# kes.client. `status` has `SERVER` without the short form.
SERVER = Option(
    "server",
    "The server, or several separated by commas. Default: 127.0.0.1:7373.",
    short="s",
    value="HOST[:PORT]",
    variables=("MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"),
)
SERVER_LONG = replace(SERVER, short="")
CREDENTIALS = (
    Option(
        "api-key",
        "The API key to authenticate with.",
        short="a",
        value="KEY",
        variables=("MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"),
        secret=True,
    ),
    Option(
        "key-file",
        "The private key to authenticate with, with --cert-file.",
        value="FILE",
        variables=("MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY", "MINIO_KMS_KES_KEY_FILE"),
    ),
    Option(
        "cert-file",
        "The certificate to authenticate with, with --key-file.",
        value="FILE",
        variables=("MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT", "MINIO_KMS_KES_CERT_FILE"),
    ),
    PASSWORD_FILE,
    Option("insecure", "Do not verify the server's certificate.", short="k"),
)
CLIENT = (SERVER, *CREDENTIALS)

_SERVER = Command(
    "server",
    "Start a KES server.",
    run="kes.cli.server:run",
    options=(
        Option("addr", "The address to listen on. Default: the config's, else 0.0.0.0:7373.", value="[IP]:PORT"),
        Option("config", "Path to the config file.", value="FILE"),
        Option("dev", "Start in development mode: no config file, keys in memory, a fresh admin API key."),
        Option("mlock", "Lock memory. Done wherever it is permitted; accepted for older scripts."),
        Option(
            "auth",
            "Deprecated: verify client certificates, on or off. Use tls.auth in the config file.",
            value="WHETHER",
            choices=("on", "off"),
        ),
        Option("cert", "Deprecated: path to the server's certificate. Use tls.cert in the config file.", value="FILE"),
        Option("key", "Deprecated: path to the server's private key. Use tls.key in the config file.", value="FILE"),
    ),
    examples=(
        ("Try it out: keys in memory, gone at the end.", "kes server --dev"),
        ("Serve with a config file.", "kes server --config config.yml"),
    ),
)

_IDENTITY = Command(
    "identity",
    "Make and inspect identities.",
    run="kes.cli.identity:identity",
    options=(PASSWORD_FILE, *OUTPUT),
    arguments=(
        Argument("API-KEY|FILE", "An API key, a certificate, or an API key's private key file.", optional=True),
    ),
    description=(
        "Without an argument it makes an API key. Of an API key or a certificate it prints the identity; of the "
        "private key file that belongs to an API key, the API key.",
    ),
    examples=(
        ("Make an API key.", "kes identity"),
        ("Print the identity of a certificate.", "kes identity client.crt"),
    ),
    commands=(
        Command(
            "new",
            "Make an API key, and with --key and --cert its private key and certificate as files.",
            run="kes.cli.identity:new",
            options=(
                Option("key", "Write the private key to this file.", value="FILE"),
                Option("cert", "Write the certificate to this file.", value="FILE"),
                Option("ip", "An IP address the certificate is valid for.", value="IP", many=True),
                Option("dns", "A host name the certificate is valid for.", value="NAME", many=True),
                Option(
                    "expiry",
                    "How long the certificate is valid. Default: 720h.",
                    value="DURATION",
                    parse=duration,
                    default=720 * 3600.0,
                ),
                Option("encrypt", "Encrypt the private key file with a password (RFC 1423, AES-256-CBC)."),
                Option("pbes2", "Encrypt it with a password as PKCS#8 does (PBES2), which is stronger."),
                PASSWORD_FILE,
                Option("force", "Replace files that exist.", short="f"),
                *OUTPUT,
            ),
            arguments=(Argument("SUBJECT", "The certificate's common name. Default: the identity.", optional=True),),
            description=(
                "A server's certificate needs --dns or --ip, as clients do not look at the subject; a client's does not.",
            ),
            examples=(
                ("A private key and certificate for a client.", "kes identity new --key app.key --cert app.crt app"),
                (
                    "A certificate for a server on this machine.",
                    "kes identity new --key kes.key --cert kes.crt --dns localhost --ip 127.0.0.1",
                ),
            ),
        ),
        Command(
            "of",
            "Print the identity of an API key, a certificate or a private key.",
            run="kes.cli.identity:of",
            options=(PASSWORD_FILE, *OUTPUT),
            arguments=(Argument("API-KEY|FILE", "An API key, or a file with a certificate or a private key."),),
            examples=(("Which identity a config file has to name.", "kes identity of client.crt"),),
        ),
    ),
)

_UPDATE = Command(
    "update",
    "Say how to upgrade kes.",
    run="kes.cli.offline:update",
    options=(
        Option("downgrade", "Accepted for older scripts.", short="d"),
        Option("output", "Accepted for older scripts.", short="o", value="FILE"),
        Option("os", "Accepted for older scripts.", value="OS"),
        Option("arch", "Accepted for older scripts.", value="ARCH"),
        Option("minisign-key", "Accepted for older scripts.", value="KEY"),
        Option("insecure", "Accepted for older scripts.", short="k"),
        *OUTPUT,
    ),
    arguments=(Argument("VERSION", "The release.", optional=True),),
)

_COMPLETION = Command(
    "completion",
    "Print a script that lets a shell complete kes commands.",
    run="kes.cli.completion:script",
    options=OUTPUT,
    arguments=(Argument("SHELL", "bash, zsh or fish.", choices=("bash", "zsh", "fish")),),
    examples=(("Complete in this bash.", "source <(kes completion bash)"),),
)

_HELP = Command(
    "help",
    "Print the help of a command.",
    run="kes.cli.usage:show",
    options=OUTPUT,
    arguments=(Argument("COMMAND", "The command's words.", optional=True, many=True),),
)

ROOT = Command(
    "kes",
    "A key-encryption server, and its command line.",
    run="kes.cli.offline:program",
    options=(
        Option("version", "Print version information.", short="v"),
        Option("auto-completion", "Install completion for the shell that SHELL names."),
        *OUTPUT,
    ),
    commands=(_SERVER, _IDENTITY, _UPDATE, _COMPLETION, _HELP),
)
