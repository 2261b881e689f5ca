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


def _time_limit(text: str) -> float:
    seconds = duration(text)
    if seconds <= 0:
        raise ValueError("it has to be above 0")
    return seconds


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
    Option(
        "ca-file",
        "Trust the certificates in this PEM file, an authority's or the server's own, and no others. Default: the "
        "system's authorities, or those of the environment.",
        value="FILE",
        variables=("SSL_CERT_FILE", "SSL_CERT_DIR"),
    ),
    Option("insecure", "Do not verify the server's certificate.", short="k"),
    Option(
        "timeout",
        "How long to wait for the server to connect, and to send anything at all, in each of three attempts. "
        "Default: 1m.",
        value="DURATION",
        parse=_time_limit,
        default=60.0,
    ),
)
CLIENT = (SERVER, *CREDENTIALS)
ENCLAVE = Option("enclave", "Accepted for older scripts, and ignored.", short="e", value="NAME")


def _ip(text: str) -> str:
    import ipaddress

    if "%" in text:  # a zone, which has a meaning on one machine only
        raise ValueError("not an IP address")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("not an IP address") from None


def _host(text: str) -> str:
    import re

    name = text.encode("idna").decode() if text and not text.isascii() else text
    if re.fullmatch(r"[0-9.]+|.*:.*", name):
        raise ValueError("write IP addresses with --ip")
    label = "[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
    if len(name) > 253 or not re.fullmatch(rf"(?:\*\.)?{label}(?:\.{label})*", name):
        raise ValueError("not a host name")
    return name


def _expiry(text: str) -> float:
    seconds = duration(text)
    if seconds < 1:
        raise ValueError("a certificate is valid for at least 1s")
    return seconds


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
        COLOR,
    ),
    examples=(
        ("Try it out: keys in memory, gone at the end.", "kes server --dev"),
        ("Serve with a config file.", "kes server --config config.yml"),
    ),
    former={"--root": "The admin's identity is in the config file: admin: {identity: …}"},
)

_PREFIX = Argument("PREFIX", "How the names begin. One * at the end means nothing.", optional=True)
_NAME = Argument("NAME", "The key's name.")
_CONTEXT = Argument("CONTEXT", "What the ciphertext is bound to, in base64.", optional=True)


def _algorithm(text: str) -> str:
    algorithms = {"aes256": "AES256", "chacha20": "ChaCha20"}
    if text.lower() not in algorithms:
        raise ValueError("write AES256 or ChaCha20")
    return algorithms[text.lower()]


_LS = Command(
    "ls",
    "List keys, policies or identities.",
    run="kes.cli.ls:run",
    options=(
        Option("identity", "List identities.", short="i"),
        Option("policy", "List policies.", short="p"),
        *CLIENT,
        *OUTPUT,
    ),
    arguments=(_PREFIX,),
    aliases=("list",),
    examples=(
        ("List all keys.", "kes ls"),
        ("List the keys whose names begin with my-.", "kes ls my-"),
        ("List all identities.", "kes ls --identity"),
    ),
)

_KEY = Command(
    "key",
    "Manage and use keys.",
    commands=(
        Command(
            "create",
            "Create keys.",
            run="kes.cli.key:create",
            options=(
                Option("if-not-exists", "Leave a key that exists as it is; that is no error."),
                ENCLAVE,
                *CLIENT,
                *OUTPUT,
            ),
            arguments=(Argument("NAME", "The name of a key.", many=True),),
            description=("Keys are created in order, up to the first that fails.",),
            examples=(("Create two keys.", "kes key create my-key my-app-key"),),
        ),
        Command(
            "import",
            "Create a key from given bytes.",
            run="kes.cli.key:import_",
            options=(
                Option(
                    "algorithm",
                    "What the key is for: AES256 or ChaCha20.",
                    value="ALGORITHM",
                    parse=_algorithm,
                    choices=("AES256", "ChaCha20"),
                    default="AES256",
                ),
                *CLIENT,
                *OUTPUT,
            ),
            arguments=(
                _NAME,
                Argument("KEY", "32 bytes in base64. Missing or -: read from standard input.", optional=True),
            ),
            description=(
                "A key on the command line is seen by every user of the machine, and kept in the shell's history: "
                "better give it on standard input.",
            ),
            examples=(("Import a key from a file.", "kes key import my-old-key < key.b64"),),
        ),
        Command(
            "info",
            "Print what is known of a key.",
            run="kes.cli.key:info",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(_NAME,),
            examples=(("Who created a key, and when.", "kes key info my-key"),),
        ),
        Command(
            "ls",
            "List keys.",
            run="kes.cli.ls:keys",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(_PREFIX,),
            aliases=("list",),
            examples=(
                ("List all keys.", "kes key ls"),
                ("List some keys, for a program.", "kes key ls --json 'my-app*'"),
            ),
        ),
        Command(
            "rm",
            "Delete keys, for good.",
            run="kes.cli.key:delete",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(Argument("NAME", "The name of a key.", many=True),),
            description=(
                "What a deleted key has encrypted can never be decrypted again. Keys are deleted in order, up to the "
                "first that fails; there is no question asked before.",
            ),
            examples=(("Delete a key.", "kes key rm my-old-key"),),
        ),
        Command(
            "encrypt",
            "Encrypt a message with a key.",
            run="kes.cli.key:encrypt",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(_NAME, Argument("MESSAGE", "The plaintext. -: read from standard input."), _CONTEXT),
            description=("The server takes up to 1 MiB of base64, which is some 700 KiB of plaintext.",),
            examples=(
                ("Encrypt a text.", "kes key encrypt my-key 'Hello World'"),
                ("Encrypt a file.", "kes key encrypt my-key - < message.txt"),
            ),
        ),
        Command(
            "decrypt",
            "Decrypt a ciphertext with the key that made it.",
            run="kes.cli.key:decrypt",
            options=(
                Option("raw", "Print the plaintext's bytes as they are, and not in base64."),
                ENCLAVE,
                *CLIENT,
                *OUTPUT,
            ),
            arguments=(
                _NAME,
                Argument("CIPHERTEXT", "The ciphertext in base64. -: read from standard input."),
                _CONTEXT,
            ),
            examples=(
                ("Decrypt a ciphertext.", 'kes key decrypt my-key "$CIPHERTEXT"'),
                ("Decrypt it to the bytes that were encrypted.", 'kes key decrypt --raw my-key "$CIPHERTEXT"'),
            ),
        ),
        Command(
            "dek",
            "Make a data key: random bytes, and the same encrypted with a key.",
            run="kes.cli.key:dek",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(_NAME, _CONTEXT),
            examples=(
                ("Make a data key.", "kes key dek my-key"),
                (
                    "Make one bound to a context, here the base64 of 'bucket/object'.",
                    "kes key dek my-key YnVja2V0L29iamVjdA==",
                ),
            ),
        ),
    ),
)

_POLICY = Command(
    "policy",
    "Inspect policies.",
    commands=(
        Command(
            "info",
            "Print what is known of a policy.",
            run="kes.cli.policy:info",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(Argument("NAME", "The policy's name."),),
            examples=(("Who created a policy, and when.", "kes policy info my-app"),),
        ),
        Command(
            "ls",
            "List policies.",
            run="kes.cli.ls:policies",
            options=(*CLIENT, *OUTPUT),
            arguments=(_PREFIX,),
            aliases=("list",),
            examples=(("List all policies.", "kes policy ls"),),
        ),
        Command(
            "show",
            "Print what a policy allows and denies.",
            run="kes.cli.policy:show",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(Argument("NAME", "The policy's name."),),
            examples=(("Print a policy.", "kes policy show my-app"),),
        ),
    ),
)

_STATUS = Command(
    "status",
    "Print how a server is.",
    run="kes.cli.status:run",
    options=(
        Option("short", "Print only which server answered.", short="s"),
        Option("api", "Print the server's routes, too."),
        Option("all", "Ask each of several servers, and not only one."),
        Option("check", "Exit with status 1 if the key store is out of reach."),
        SERVER_LONG,
        *CREDENTIALS,
        *OUTPUT,
    ),
    examples=(
        ("See that a server is well.", "kes status"),
        ("Let a script see that server and key store are well.", "kes status --short --check"),
        ("See the routes of a server.", "kes status --short --api"),
    ),
)

_LOG = Command(
    "log",
    "Print what a server logs, from now on.",
    run="kes.cli.log:run",
    options=(
        Option("audit", "Print the audit log: each request, and what came of it. The default."),
        Option("error", "Print the error log."),
        Option("follow", "Connect again when the server ends the log.", short="f"),
        *CLIENT,
        replace(JSON, help="Print each event as a line of JSON, with all its fields."),
        COLOR,
    ),
    description=("It ends with Ctrl-C; without --follow also when the server does, which is an error.",),
    examples=(
        ("Watch the requests.", "kes log"),
        ("Write every event to a file, restarts of the server notwithstanding.", "kes log --json --follow > audit.log"),
    ),
)

_METRIC = Command(
    "metric",
    "Print what a server counts, again and again.",
    run="kes.cli.metric:run",
    options=(
        Option(
            "rate",
            "How long to wait from one sample to the next. Default: 5s.",
            value="DURATION",
            parse=_time_limit,
            default=5.0,
        ),
        Option("once", "Print one sample, and end."),
        *CLIENT,
        replace(JSON, help="Print each sample as a line of JSON, as is done where the output is no terminal."),
        COLOR,
    ),
    description=("It ends with Ctrl-C. Where the output is no terminal, a sample that cannot be had ends it, too.",),
    examples=(
        ("Watch a server.", "kes metric"),
        ("Count the requests that the server failed.", "kes metric --once --json | jq .kes_http_request_failure"),
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
                Option("ip", "An IP address the certificate is valid for.", value="IP", parse=_ip, many=True),
                Option("dns", "A host name the certificate is valid for.", value="NAME", parse=_host, many=True),
                Option(
                    "expiry",
                    "How long the certificate is valid. Default: 720h.",
                    value="DURATION",
                    parse=_expiry,
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
                "A server's certificate needs --dns or --ip, because nobody looks at the subject; a client's does not.",
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
        Command(
            "info",
            "Print what a server knows of an identity.",
            run="kes.cli.identity_info:run",
            options=(ENCLAVE, *CLIENT, *OUTPUT),
            arguments=(Argument("IDENTITY", "The identity. Default: the own one, with its policy.", optional=True),),
            examples=(("Who the server takes me for, and what I may do.", "kes identity info"),),
        ),
        Command(
            "ls",
            "List identities.",
            run="kes.cli.ls:identities",
            options=(*CLIENT, *OUTPUT),
            arguments=(_PREFIX,),
            aliases=("list",),
            examples=(("List all identities.", "kes identity ls"),),
        ),
    ),
)

_MIGRATE = Command(
    "migrate",
    "Copy keys from one key store into another.",
    run="kes.cli.migrate:run",
    options=(
        Option("from", "The config file of the key store to copy from.", value="FILE"),
        Option("to", "The config file of the key store to copy into.", value="FILE", aliases=("target",)),
        Option("force", "Replace keys that exist with another value.", short="f"),
        Option("merge", "Skip keys that exist."),
        Option("dry-run", "Say what would be done, and write nothing."),
        Option("quiet", "Print nothing but errors.", short="q"),
        Option("server", "Not supported: migrate to a KMS server.", short="s", value="HOST[:PORT]"),
        Option("enclave", "Not supported: the enclave of a KMS server.", short="e", value="NAME"),
        Option("api-key", "Not supported: the API key for a KMS server.", short="a", value="KEY", secret=True),
        Option("insecure", "Not supported: do not verify a KMS server's certificate.", short="k"),
        *OUTPUT,
    ),
    arguments=(Argument("PATTERN", "Which keys, by name: *, ?, [a-z]. Default: all.", optional=True),),
    description=(
        "Of the config files only the keystore section is read, and no server needs to run. Values are copied byte for "
        "byte, and each copy is read back. The source is not changed.",
        "Without --force and --merge a key that exists in the target is an error. One key's error does not keep the "
        "others from being copied.",
        "An interrupted migration is completed by running it again, with --merge or --force. Run one migration into a "
        "key store at a time.",
    ),
    examples=(
        ("Copy all keys.", "kes migrate --from old.yml --to new.yml"),
        ("See what would be copied.", "kes migrate --from old.yml --to new.yml --dry-run 'my-app-*'"),
    ),
)

_INSTALL = Command(
    "install",
    "Put systemd units, user, config folder, manual and completion in place.",
    run="kes.cli.install:run",
    options=(
        Option(
            "root",
            "Install below this folder, for a package: nothing is run, and /usr stands for /usr/local.",
            value="DIR",
        ),
        Option("dry-run", "Say what would be done, and change nothing."),
        *OUTPUT,
    ),
    description=(
        "The units run the Python that runs this command. They replace those of an earlier version; settings of your "
        "own belong into drop-ins (systemctl edit kes), which are never touched. Nor is anything that is in /etc/kes. "
        "Nothing is started.",
        "A second run changes nothing, and says so.",
    ),
    examples=(
        ("See what would be done on this machine.", "kes install --dry-run"),
        ("Install for a package.", "kes install --root package"),
    ),
)

_UPDATE = Command(
    "update",
    "Say how to upgrade kes.",
    run="kes.cli.program:update",
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
    examples=(("Be told how to upgrade.", "kes update"),),
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

_POLICIES_IN_CONFIG = "Policies are in the config file, under policy.<name>"
_IDENTITIES_IN_CONFIG = "Identities are assigned in the config file, under policy.<name>.identities"
_NO_SECRETS = "Secrets were removed: encrypt data with 'kes key encrypt'"

# Commands of guides for earlier versions of the original.
_FORMER = {
    "tool": "Use 'kes identity'",
    "tool identity": "Use 'kes identity'",
    "tool identity new": "Use 'kes identity new'",
    "tool identity of": "Use 'kes identity of'",
    "key derive": "Use 'kes key dek'",
    "key generate": "Use 'kes key dek'",
    "key delete": "Use 'kes key rm'",
    "key describe": "Use 'kes key info'",
    "log trace": "Use 'kes log'",
    "init": "Use 'kes identity new' for a key and certificate, and 'kes server --config FILE' to start a server",
    "policy add": _POLICIES_IN_CONFIG,
    "policy assign": _IDENTITIES_IN_CONFIG,
    "policy create": _POLICIES_IN_CONFIG,
    "policy rm": _POLICIES_IN_CONFIG,
    "policy delete": _POLICIES_IN_CONFIG,
    "identity assign": _IDENTITIES_IN_CONFIG,
    "identity forget": _IDENTITIES_IN_CONFIG,
    "identity rm": _IDENTITIES_IN_CONFIG,
    "secret": _NO_SECRETS,
}

ROOT = Command(
    "kes",
    "A key-encryption server, and its command line.",
    run="kes.cli.program:run",
    options=(
        Option("version", "Print version information.", short="v"),
        Option("auto-completion", "Install completion for the shell that SHELL names."),
        *OUTPUT,
    ),
    commands=(
        _SERVER,
        _LS,
        _LOG,
        _STATUS,
        _METRIC,
        _KEY,
        _POLICY,
        _IDENTITY,
        _MIGRATE,
        _INSTALL,
        _UPDATE,
        _COMPLETION,
        _HELP,
    ),
    former=_FORMER,
)
