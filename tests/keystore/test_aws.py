"""Keys in AWS Secrets Manager, beyond what every store does, on moto (keystores.md section 4)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kes.keystore import PAGE, KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable, connect
from kes.keystore.aws import MAX_ANSWER, MAX_SECRET, AWSStore, Limits
from kes.keystore.settings import AWSSettings
from tests.keystore.fakeaws import REGION, FakeAWS, Fault, Request, error
from tests.keystore.test_every_store import *  # noqa: F403 - the suite, on the fixtures of this module
from tests.keystore.test_every_store import CURRENT, LEGACY, Plant, Traits, walk
from tests.support import TIMEOUT, Server, start

KEY, SECRET, TOKEN = "AKIDSTATIC", "hunter2secret", "hunter2token"
SECTION = "keystore.aws.secretsmanager"
LIMITS = Limits()
SHORT = Limits(connect=0.2, attempt=0.2, last=0.1, wait=0.01)  # for an endpoint that says nothing
Open = Callable[..., AWSStore]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeAWS]:
    server = FakeAWS()
    yield server
    server.stop()


@pytest.fixture
def aws(server: FakeAWS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAWS:
    """AWS without a secret, in an environment without a credential."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "CONFIG_FILE", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server.reset()
    return server


class Time:
    """Seconds that pass by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def open_store(aws: FakeAWS, time: Time) -> Iterator[Open]:
    """A function that opens a store with the given settings, which has its own time. All are closed at the end."""
    opened: list[AWSStore] = []

    def open_store(*, limits: Limits = LIMITS, **settings: str) -> AWSStore:
        given = {"endpoint": aws.endpoint, "region": REGION, "accesskey": KEY, "secretkey": SECRET, **settings}
        store = AWSStore(AWSSettings(**given), limits=limits, clock=time.clock, sleep=time.sleep, chance=lambda: 0.0)
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> KeyStore:
    return open_store()


@pytest.fixture
def plant(aws: FakeAWS) -> Plant:
    return aws.plant


@pytest.fixture
def traits() -> Traits:
    return Traits(longest=MAX_SECRET, tells_of_missing=False)


def calls(store: KeyStore) -> dict[str, Callable[[], object]]:
    """Every operation that is signed, by AWS's name for it."""
    return {
        "CreateSecret": lambda: store.create("my-key", CURRENT),
        "GetSecretValue": lambda: store.get("my-key"),
        "DeleteSecret": lambda: store.delete("my-key"),
        "ListSecrets": lambda: store.list("", "", 0),
    }


OPERATIONS = ["CreateSecret", "GetSecretValue", "DeleteSecret", "ListSecrets"]


def failure(call: Callable[[], object]) -> KeyStoreError:
    """The error that `call` raises; nowhere in it is a secret."""
    with pytest.raises(KeyStoreError) as caught:
        call()
    raised = caught.value
    shown = f"{raised} {raised!r} {raised.__cause__!r}"
    assert not any(secret in shown for secret in (SECRET, TOKEN, CURRENT.decode()))
    return raised


# Opening


def test_start_up_line(aws: FakeAWS, open_store: Open) -> None:
    """The start-up output names the endpoint."""
    assert open_store().kms == f"AWS SecretsManager: {aws.endpoint}"


def test_connect(aws: FakeAWS) -> None:
    """The settings lead to this store; opening it sends a probe without credentials, and one request with them."""
    store = connect(AWSSettings(aws.endpoint, REGION, accesskey=KEY, secretkey=SECRET))
    store.close()
    assert isinstance(store, AWSStore)
    assert store.warnings == ()
    probe, request = aws.requests
    assert (probe.method, probe.body, probe.signer) == ("GET", b"", ("", "", ""))
    assert "authorization" not in probe.headers
    assert (request.operation, request.json) == ("ListSecrets", {"MaxResults": 1})


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the error says what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    raised = failure(lambda: connect(AWSSettings("https://aws", REGION)))
    assert str(raised) == "the AWS key store needs the package boto3: pip install 'kes[aws]'"


def test_the_sdk_is_not_loaded_for_others() -> None:
    """Who has keys elsewhere does not load the SDK."""
    script = "import sys, kes.tap, kes.cli.main, kes.migration; sys.exit(bool({'boto3', 'botocore'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=TIMEOUT)


def test_secrets_stay_out_of_repr() -> None:
    """The repr of the settings, which may land in a log, does not show the secret key and the token."""
    assert "hunter2" not in repr(AWSSettings("https://aws", REGION, "", KEY, SECRET, TOKEN))


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (302, True), (404, True), (500, False), (503, False)])
def test_probe(aws: FakeAWS, open_store: Open, status: int, reachable: bool) -> None:
    """Any answer to the probe will do but the endpoint's own failure, which keeps the store from being opened, too."""
    store = open_store()
    aws.fail("GET", Fault(status, b"<html>"), Fault(status, b"<html>"))
    if reachable:
        assert store.status() == 0.0
        open_store()
        return
    for call in (store.status, open_store):
        raised = failure(call)
        assert type(raised) is KeyStoreError
        assert str(raised) == f"status: {aws.endpoint} answers with {status}; check {SECTION}.endpoint"


def test_probe_that_gets_no_answer(aws: FakeAWS, open_store: Open) -> None:
    """A connection that ends without an answer is an endpoint out of reach."""
    store = open_store()
    aws.fail("GET", Fault())
    assert type(failure(store.status)) is Unreachable


# Layout


@pytest.mark.parametrize("value", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_reads_what_another_wrote(aws: FakeAWS, store: KeyStore, value: bytes) -> None:
    """A secret that was written by the table, as text or as bytes, is read, listed, taken, and removed for good."""
    client = aws.client()
    client.create_secret(Name="text", SecretString=value.decode())
    client.create_secret(Name="binary", SecretBinary=value)
    assert (store.get("text"), store.get("binary")) == (value, value)
    assert store.list("", "", 0) == (["binary", "text"], "")
    with pytest.raises(KeyExists, match="text"):
        store.create("text", value)
    store.delete("text")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_secret(SecretId="text")
    assert aws.operations("DeleteSecret")[0].json == {"SecretId": "text", "ForceDeleteWithoutRecovery": True}
    client.close()


@pytest.mark.parametrize("value", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_writes_what_another_reads(aws: FakeAWS, store: KeyStore, value: bytes) -> None:
    """A key is the text of a secret of its name, with nothing else set."""
    store.create("my-key", value)
    client = aws.client()
    secret = client.get_secret_value(SecretId="my-key")
    assert (secret["Name"], secret["SecretString"], secret.get("SecretBinary")) == ("my-key", value.decode(), None)
    (request,) = aws.operations("CreateSecret")
    assert {**request.json, "ClientRequestToken": ""} == {
        "Name": "my-key",
        "SecretString": value.decode(),
        "ClientRequestToken": "",
    }
    assert len(request.json["ClientRequestToken"]) == 36
    client.close()


def test_bytes_that_are_no_text(aws: FakeAWS, store: KeyStore) -> None:
    """Such a value, which no server writes, is stored as bytes."""
    store.create("my-key", b"\xff\x00")
    assert base64.b64decode(aws.operations("CreateSecret")[0].json["SecretBinary"]) == b"\xff\x00"
    assert store.get("my-key") == b"\xff\x00"


def test_kms_key(aws: FakeAWS, open_store: Open) -> None:
    """The KMS key is that of the settings, and not mentioned if there is none."""
    open_store(kmskey="alias/my-key").create("my-key", CURRENT)
    client = aws.client()
    assert client.describe_secret(SecretId="my-key")["KmsKeyId"] == "alias/my-key"
    client.close()


def test_current_version(aws: FakeAWS, store: KeyStore) -> None:
    """What is read is the current version: whoever puts another one changes the key."""
    store.create("my-key", CURRENT)
    client = aws.client()
    client.put_secret_value(SecretId="my-key", SecretString=LEGACY.decode())
    client.close()
    assert store.get("my-key") == LEGACY


# Listing


@pytest.mark.parametrize("count", [PAGE, 2 * PAGE + 1])
def test_more_than_a_page(store: KeyStore, plant: Plant, count: int) -> None:
    """As in the suite, with fewer cases: moto takes its time."""
    names = [f"k{number:05}" for number in range(count)]
    for name in names:
        plant(name, CURRENT)
    assert walk(store, "k", 0) == [names[at : at + PAGE] for at in range(0, count, PAGE)]


def test_pages_of_a_hundred(aws: FakeAWS, store: KeyStore) -> None:
    """AWS is asked for 100 names at a time, and for those alone that may begin with the prefix."""
    for number in range(250):
        aws.plant(f"a{number}", CURRENT)
        aws.plant(f"b{number}", CURRENT)
    aws.requests.clear()
    names, _ = store.list("a", "", 0)
    assert names == sorted(f"a{number}" for number in range(250))
    requests = [request.json for request in aws.requests]
    assert [request.get("MaxResults") for request in requests] == [100, 100, 100]
    assert [request.get("Filters") for request in requests] == [[{"Key": "name", "Values": ["a"]}]] * 3


def test_filter_that_finds_more(aws: FakeAWS, store: KeyStore) -> None:
    """Names that AWS gives although they do not begin with the prefix, letter case included, are left out."""
    entries = [{"Name": name} for name in ("my-key", "MY-KEY", "my", "your-key", "my-other", "my.name")]
    aws.fail("ListSecrets", Fault(200, json.dumps({"SecretList": entries}).encode()))
    assert store.list("my-", "", 0) == (["my-key", "my-other"], "")


def test_secret_that_is_deleted_is_not_listed(aws: FakeAWS, store: KeyStore) -> None:
    """A secret in its recovery window is no key."""
    store.create("my-key", CURRENT)
    client = aws.client()
    client.delete_secret(SecretId="my-key")
    client.close()
    assert store.list("", "", 0) == ([], "")


def test_listing_without_end(aws: FakeAWS, store: KeyStore) -> None:
    """An endpoint that gives the same token again does not keep the store for ever."""
    page = Fault(200, b'{"SecretList": [], "NextToken": "again"}')
    aws.fail("ListSecrets", page, page, page)
    assert "the same page again" in str(failure(lambda: store.list("", "", 0)))


# Several at once


def test_two_servers_create_the_same_names(open_store: Open) -> None:
    """Of 50 threads of two stores one wins each name, all others see that it exists, and what is read is its value."""
    stores = [open_store(), open_store()]
    names = [f"key-{number}" for number in range(5)]
    start = threading.Barrier(50)
    won: list[tuple[str, bytes]] = []
    lost: list[str] = []

    def create(number: int) -> None:
        start.wait()
        for name in names:
            value = b"value %d" % number
            try:
                stores[number % 2].create(name, value)
                won.append((name, value))
            except KeyExists:
                lost.append(name)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in won) == names
    assert len(lost) == 49 * 5
    for name, value in won:
        assert {store.get(name) for store in stores} == {value}


# Deleted secrets. Moto deletes at once, and calls it a conflict to create one that can be restored. AWS does neither.

SCHEDULED = error(
    "InvalidRequestException",
    "You can't create this secret because a secret with this name is already scheduled for deletion.",
)


def test_name_that_is_being_deleted(aws: FakeAWS, store: KeyStore, time: Time) -> None:
    """A create that comes before AWS is done with a deletion waits for it, a little longer each time."""
    store.create("my-key", LEGACY)
    store.delete("my-key")
    aws.fail("CreateSecret", SCHEDULED, SCHEDULED, SCHEDULED)
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    assert time.pauses == [0.2, 0.4, 0.8]
    tokens = {request.json["ClientRequestToken"] for request in aws.operations("CreateSecret")[1:]}
    assert len(tokens) == 1


def test_name_that_can_be_restored(aws: FakeAWS, store: KeyStore, time: Time) -> None:
    """A secret in its recovery window is no missing key: neither read nor replaced, and AWS's reason is told."""
    store.create("my-key", LEGACY)
    client = aws.client()
    client.delete_secret(SecretId="my-key")
    client.close()
    raised = failure(lambda: store.get("my-key"))
    assert type(raised) is KeyStoreError
    assert "InvalidRequestException: " in str(raised)
    assert str(raised).endswith("marked deleted.; restore it, or wait until AWS has deleted it")
    aws.fail("CreateSecret", *[SCHEDULED] * 10)
    raised = failure(lambda: store.create("my-key", CURRENT))
    assert type(raised) is KeyStoreError
    assert str(raised) == (
        "create key 'my-key': InvalidRequestException: You can't create this secret because a secret with this name "
        "is already scheduled for deletion.; restore it, or wait until AWS has deleted it"
    )
    assert time.now <= LIMITS.last


# Credentials


def test_static_credentials(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the settings win over all others, and are all that is used."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    open_store()
    assert aws.requests[-1].signer == (KEY, REGION, "")
    open_store(token=TOKEN)
    assert aws.requests[-1].signer == (KEY, REGION, TOKEN)


@pytest.mark.parametrize(
    "given", [{"secretkey": ""}, {"accesskey": ""}, {"accesskey": "", "secretkey": "", "token": "t"}]
)
def test_half_a_pair(aws: FakeAWS, open_store: Open, given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a pair is sent as it is, and not made whole from elsewhere: AWS says what is wrong."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    open_store(**given)
    assert aws.requests[-1].signer == (given.get("accesskey", KEY), REGION, given.get("token", ""))


def test_credentials_of_the_environment(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials in the settings those of the environment are used."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    open_store(accesskey="", secretkey="")
    assert aws.requests[-1].signer == ("AKIDENV", REGION, TOKEN)


def test_shared_credentials_file(
    aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shared credentials file counts, with the profile of the environment; the shared config file does not."""
    text = f"aws_secret_access_key = {SECRET}\naws_access_key_id = "
    (tmp_path / "credentials").write_text(f"[default]\n{text}AKIDFILE\n[other]\n{text}AKIDOTHER\n")
    (tmp_path / "config").write_text(f"[default]\n{text}AKIDCONFIG\nretry_mode = nonsense\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    open_store(accesskey="", secretkey="")
    assert aws.requests[-1].signer == ("AKIDFILE", REGION, "")
    monkeypatch.setenv("AWS_PROFILE", "other")
    open_store(accesskey="", secretkey="")
    assert aws.requests[-1].signer == ("AKIDOTHER", REGION, "")
    (tmp_path / "credentials").unlink()
    monkeypatch.delenv("AWS_PROFILE")
    assert "no AWS credentials" in open_store(accesskey="", secretkey="").warnings[0]


def test_web_identity(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token in a file, as EKS has it for service accounts, is exchanged for credentials."""
    (tmp_path / "token").write_text("a.web.identity")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kes")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.endpoint)
    store = open_store(accesskey="", secretkey="")
    assert store.warnings == ()
    key, region, token = aws.requests[-1].signer
    assert (key.startswith("ASIA"), region, len(token) > 100) == (True, REGION, True)
    (exchange,) = (request for request in aws.requests if b"AssumeRoleWithWebIdentity" in request.body)
    assert b"WebIdentityToken=a.web.identity" in exchange.body


def test_role_of_a_task(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata service of ECS gives credentials."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.endpoint}/credentials")
    given = {"AccessKeyId": "ASIATASK", "SecretAccessKey": SECRET, "Token": TOKEN, "Expiration": "2999-01-01T00:00:00Z"}
    aws.fail("GET", Fault(404), Fault(200, json.dumps(given).encode()))  # the first is the probe
    assert open_store(accesskey="", secretkey="").warnings == ()
    assert aws.requests[-1].signer == ("ASIATASK", REGION, TOKEN)


def test_credentials_that_come_later(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, or a profile, the store opens with a warning, and works once there are some."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    store = open_store(accesskey="", secretkey="")
    where = f"check {SECTION}.credentials, or the sources of credentials if it is empty"
    (warning,) = store.warnings
    assert warning.startswith(
        "a first request to the key store failed, and others may: list keys: no AWS credentials: "
    )
    assert warning.endswith(where)
    monkeypatch.delenv("AWS_PROFILE")
    raised = failure(lambda: store.get("my-key"))
    assert type(raised) is KeyStoreError
    assert str(raised) == f"read key 'my-key': no AWS credentials: Unable to locate credentials; {where}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT


def test_environment_that_is_not_meant(aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, region and tries are those of the settings, whatever the environment has for other programs."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_REGION": "eu-west-1",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_DEFAULTS_MODE": "auto",
        "AWS_RETRY_MODE": "nonsense",
        "AWS_MAX_ATTEMPTS": "100",
    }.items():
        monkeypatch.setenv(name, value)
    store = open_store()
    assert store.warnings == ()
    assert aws.requests[-1].signer == (KEY, REGION, "")
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT


# What AWS refuses


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            error("AccessDeniedException", "User: arn:aws:iam::1:user/kes is not authorized to perform: x"),
            "AccessDeniedException: User: arn:aws:iam::1:user/kes is not authorized to perform: x; "
            f"check {SECTION}.credentials and what their IAM policy allows",
        ),
        (error("AccessDeniedException", "Access to KMS is not allowed"), f"check {SECTION}.kmskey, and that the "),
        (
            error("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text"),
            f"check {SECTION}.kmskey",
        ),
        (error("EncryptionFailure", "Secrets Manager can't encrypt with the key"), f"check {SECTION}.kmskey, and "),
        (
            error("UnrecognizedClientException", "The security token included in the request is invalid."),
            f"check {SECTION}.credentials, or the sources",
        ),
        (error("ExpiredTokenException", "The security token is expired"), f"check {SECTION}.credentials, or "),
        (
            error("InvalidSignatureException", "Credential should be scoped to a valid region."),
            f"check that {SECTION}.region is that of the endpoint",
        ),
        (
            error("InvalidSignatureException", f"The Canonical String should have been\nx-amz-security-token:{TOKEN}"),
            f"InvalidSignatureException); check {SECTION}.credentials, or the sources of credentials if it is empty, "
            "and the clock of this machine",
        ),
        (error("UnknownOperationException"), f"UnknownOperationException (status 400); check {SECTION}.endpoint"),
        (Fault(403, b"<html>Forbidden</html>"), f"check {SECTION}.endpoint"),
        (Fault(404, b"<html>"), f"check {SECTION}.endpoint"),
        (error("InvalidParameterException", "Invalid\x1b[2J\n name"), "InvalidParameterException: Invalid\x1b[2J name"),
        (error("ValidationException", "x" * 10_000), "x" * 300),
    ],
    ids=lambda value: None,
)
def test_refused(aws: FakeAWS, store: KeyStore, time: Time, operation: str, fault: Fault, words: str) -> None:
    """What AWS refuses is a plain error, with its reason and the setting to change, without a secret, and at once."""
    aws.requests.clear()
    aws.fail(operation, fault)
    raised = failure(calls(store)[operation])
    assert type(raised) is KeyStoreError
    assert words in str(raised)
    assert len(str(raised)) < 600
    assert (len(aws.requests), time.pauses) == (1, [])


def test_refused_when_opened(aws: FakeAWS, open_store: Open) -> None:
    """A store opens although its first request is refused, with a warning that says why."""
    aws.fail("ListSecrets", error("AccessDeniedException", "not authorized"))
    assert open_store().warnings == (
        "a first request to the key store failed, and others may: list keys: AccessDeniedException: not authorized; "
        f"check {SECTION}.credentials and what their IAM policy allows",
    )


def test_value_that_is_too_long(aws: FakeAWS, store: KeyStore) -> None:
    """A value over 64 KiB is refused without asking AWS, whose error would quote it."""
    raised = failure(lambda: store.create("my-key", b"x" * (MAX_SECRET + 1)))
    assert str(raised) == "create key 'my-key': AWS takes 65536 bytes at most, not 65537"
    assert aws.operations("CreateSecret") == []


def test_missing_key_that_aws_tells_of(aws: FakeAWS, store: KeyStore) -> None:
    """AWS may say of a deletion that there was nothing; after a try that may have deleted it, that is success."""
    missing = error("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
    aws.fail("DeleteSecret", missing)
    with pytest.raises(KeyNotFound, match="my-key"):
        store.delete("my-key")
    aws.fail("DeleteSecret", Fault(), missing)
    store.delete("my-key")


# What goes wrong on the way


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "fault",
    [
        error("InternalServiceError", "An error occurred on the server side.", 500),
        Fault(503, b"<html>Service Unavailable</html>"),
        error("ThrottlingException", "Rate exceeded"),
        Fault(),
    ],
    ids=["500", "503", "throttled", "cut off"],
)
def test_passing_failure(aws: FakeAWS, store: KeyStore, time: Time, operation: str, fault: Fault) -> None:
    """What passes is tried again, after a pause that grows, until it is there."""
    if operation != "CreateSecret":
        aws.plant("my-key", CURRENT)
    aws.fail(operation, fault, fault)
    calls(store)[operation]()
    assert time.pauses == [0.2, 0.4]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("fault", "kind"), [(Fault(500, b"{}"), KeyStoreError), (Fault(), Unreachable)])
def test_failure_that_stays(
    aws: FakeAWS, store: KeyStore, time: Time, operation: str, fault: Fault, kind: type[KeyStoreError]
) -> None:
    """What does not pass is given up in time: an answer is a plain error, and none is an endpoint out of reach."""
    aws.fail(operation, *[fault] * 10)
    raised = failure(calls(store)[operation])
    assert type(raised) is kind
    assert f"check {SECTION}.endpoint" in str(raised)
    assert 3 <= len(time.pauses) < 9
    assert time.now <= LIMITS.last


def test_time_limits() -> None:
    """However many tries there are, and with a value that is read back, they end in 10 s; the API's limit is 15 s."""
    assert LIMITS.last + LIMITS.attempt <= 10


@pytest.mark.parametrize("done", [True, False], ids=["stored", "not stored"])
def test_answer_that_gets_lost(aws: FakeAWS, store: KeyStore, done: bool) -> None:
    """A create whose answer got lost is done once, and is no conflict with itself."""
    aws.fail("CreateSecret", Fault(done=done))
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    first, second = (request.json for request in aws.operations("CreateSecret"))
    assert first == second


@pytest.mark.parametrize("value", [CURRENT, LEGACY], ids=["mine", "another's"])
def test_conflict_after_an_answer_that_got_lost(aws: FakeAWS, store: KeyStore, value: bytes) -> None:
    """Where AWS calls the repeated create a conflict, the value that is there tells who has won."""
    aws.plant("my-key", value)
    aws.fail("CreateSecret", Fault(), error("ResourceExistsException", "The operation failed because it exists."))
    if value == CURRENT:
        store.create("my-key", CURRENT)
    else:
        with pytest.raises(KeyExists, match="my-key"):
            store.create("my-key", CURRENT)
    assert store.get("my-key") == value


NOT_AWS = [b"", b"{", b"[]", b"null", b"{}", b"<html>Welcome to the hotel</html>", b"\xff"]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        *((operation, body) for operation in OPERATIONS for body in NOT_AWS),
        ("CreateSecret", b'{"Name": "other"}'),
        ("CreateSecret", b'{"Name": 5}'),
        ("GetSecretValue", b'{"Name": "other", "SecretString": "x"}'),
        ("GetSecretValue", b'{"Name": "my-key", "SecretString": 5}'),
        ("GetSecretValue", b'{"Name": "my-key", "SecretBinary": 5}'),
        ("GetSecretValue", b'{"Name": "my-key", "SecretString": "\\udc00"}'),
        ("ListSecrets", b'{"SecretList": 1}'),
        ("ListSecrets", b'{"SecretList": "a"}'),
        ("ListSecrets", b'{"SecretList": [], "NextToken": 1}'),
    ],
)
def test_malformed_answer(aws: FakeAWS, store: KeyStore, operation: str, body: bytes) -> None:
    """An answer that is not AWS's is a plain error that doubts the endpoint: no success, no value, no missing key."""
    aws.fail(operation, Fault(200, body))
    raised = failure(calls(store)[operation])
    assert type(raised) is KeyStoreError
    assert "an answer that is not AWS's" in str(raised)
    assert str(raised).endswith(f"check {SECTION}.endpoint")


@pytest.mark.parametrize("value", [b"", b"x" * ((1 << 20) + 1)], ids=["empty", "too long"])
def test_value_that_no_key_has(aws: FakeAWS, store: KeyStore, value: bytes) -> None:
    """A secret without a text, or with one over 1 MiB, is an error, and no missing key."""
    body = json.dumps({"Name": "my-key", "SecretString": value.decode()}).encode()
    aws.fail("GetSecretValue", Fault(200, body))
    raised = failure(lambda: store.get("my-key"))
    assert type(raised) is KeyStoreError
    assert f"not {len(value)}" in str(raised)


# An endpoint out of reach


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:{port}", "https://no-such-host.invalid", "https://127.0.0.1:{aws}"]
)
def test_wrong_endpoint(aws: FakeAWS, open_store: Open, endpoint: str) -> None:
    """An endpoint that refuses, that does not exist or that does not speak TLS keeps the store from being opened."""
    endpoint = endpoint.format(port=free_port(), aws=aws.endpoint.rpartition(":")[2])
    raised = failure(lambda: open_store(endpoint=endpoint))
    assert type(raised) is Unreachable
    assert endpoint in str(raised)
    assert str(raised).endswith(f"check {SECTION}.endpoint")


def test_endpoint_that_goes_away(aws: FakeAWS, store: KeyStore, time: Time) -> None:
    """When nobody listens any more, every call is out of reach, at once; when there is somebody again, all work."""
    store.create("other", CURRENT)
    aws.stop()
    try:
        for call in (*calls(store).values(), store.status):
            raised = failure(call)
            assert type(raised) is Unreachable
            assert str(raised).endswith(f"check {SECTION}.endpoint")
    finally:
        aws.start()
    for call in (*calls(store).values(), store.status):
        call()


def test_endpoint_that_says_nothing_when_opened(open_store: Open) -> None:
    """An endpoint that takes connections and says nothing is out of reach."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        raised = failure(lambda: open_store(endpoint=endpoint, limits=SHORT))
    assert type(raised) is Unreachable
    assert "Read timeout" in str(raised)


@pytest.mark.parametrize("operation", [*OPERATIONS, "GET"])
def test_endpoint_that_says_nothing(aws: FakeAWS, open_store: Open, operation: str) -> None:
    """The same for each call, which is given up by its limits."""
    store = open_store(limits=SHORT)
    held = threading.Event()
    aws.fail(operation, *[Fault(held=held)] * 10)
    try:
        raised = failure({**calls(store), "GET": store.status}[operation])
    finally:
        held.set()
    assert type(raised) is Unreachable
    assert "Read timeout" in str(raised)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("operation", [*OPERATIONS, "GET"])
@pytest.mark.parametrize(
    "begun", [HEAD[:12], HEAD + b"X:", HEAD + b"Content-Length: 1000000\r\n\r\n"], ids=["status line", "header", "body"]
)
def test_endpoint_that_dribbles(aws: FakeAWS, open_store: Open, time: Time, operation: str, begun: bytes) -> None:
    """An answer that comes byte by byte, each of them in time and all together not, ends with the time of the try."""
    store = open_store()
    before = time.now

    def pass_time() -> None:
        time.now += 0.01

    aws.fail(operation, Fault(dribbled=pass_time, body=begun))
    raised = failure({**calls(store), "GET": store.status}[operation])
    assert type(raised) is Unreachable
    assert "Read timeout" in str(raised)
    assert time.now - before >= LIMITS.attempt


def signature(request: Request, secret: str) -> str:
    """The signature that a request must have, as AWS's documentation of Signature Version 4 has it."""

    def sign(key: bytes, text: str) -> bytes:
        return hmac.digest(key, text.encode(), "sha256")

    pattern = r"Credential=[^/]*/((\d+)/([^/]*)/([^/]*)/aws4_request), SignedHeaders=([^,]*),"
    found = re.search(pattern, request.headers["authorization"])
    assert found is not None
    scope, day, region, service, names = found.groups()
    lines = [f"{name}:{request.headers[name]}\n" for name in names.split(";")]
    canonical = f"{request.method}\n/\n\n{''.join(lines)}\n{names}\n{hashlib.sha256(request.body).hexdigest()}"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{hashed}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = sign(key, part)
    return sign(key, text).hex()


def test_what_is_sent_is_what_was_signed(aws: FakeAWS, open_store: Open) -> None:
    """Each request has the signature of its headers and body: nothing is changed on the way to the wire."""
    for call in calls(open_store(token=TOKEN)).values():
        with suppress(KeyStoreError):
            call()
    signed = [request for request in aws.requests if request.operation]
    assert {request.operation for request in signed} == set(OPERATIONS)
    for request in signed:
        names = re.search(r"SignedHeaders=([^,]*)", request.headers["authorization"])
        assert names is not None
        assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-target"} <= set(names[1].split(";"))
        assert request.headers["authorization"].endswith(f"Signature={signature(request, SECRET)}")


def test_endless_answer(aws: FakeAWS, open_store: Open) -> None:
    """An answer beyond all measure is not read to its end."""
    store = open_store()
    aws.fail("GetSecretValue", Fault(200, b" " * (MAX_ANSWER + 1)))
    raised = failure(lambda: store.get("my-key"))
    assert type(raised) is KeyStoreError
    assert "an answer that is not AWS's (_TooLong)" in str(raised)


def test_authorities_that_cannot_be_read(
    aws: FakeAWS, open_store: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Authorities of the environment that are no certificates are an error, and never replaced by others."""
    names = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
    (tmp_path / "bad").write_text("no certificate")
    for name in names:
        with monkeypatch.context() as patch:
            for each in names:
                patch.delenv(each, raising=False)
            patch.setenv(name, str(tmp_path / "missing"))
            assert "missing of AWS_CA_BUNDLE" in str(failure(open_store))
            patch.setenv(name, str(tmp_path / "bad"))
            assert "holds no valid PEM certificate" in str(failure(open_store))


# A whole server


def serve(folder: Path, aws: FakeAWS, **sections: Any) -> Server:
    section = {"endpoint": aws.endpoint, "region": REGION, "credentials": {"accesskey": KEY, "secretkey": SECRET}}
    return start(folder, keystore={"aws": {"secretsmanager": section}}, **sections)


def test_a_whole_server(aws: FakeAWS, tmp_path: Path) -> None:
    """Keys are created, used, and there again after a restart."""
    with serve(tmp_path, aws, keys=[{"name": "first-key"}]) as server:
        assert f"AWS SecretsManager: {aws.endpoint}\n" in "".join(server.out)
        client = server.client()
        assert client.request("PUT", "/v1/key/create/my-key").status == 200
        assert client.request("PUT", "/v1/key/create/my-key").message == "key already exists"
        made = client.request("PUT", "/v1/key/generate/my-key").json
    with serve(tmp_path, aws, keys=[{"name": "first-key"}]) as server:
        client = server.client()
        decrypted = client.request("PUT", "/v1/key/decrypt/my-key", {"ciphertext": made["ciphertext"]})
        assert decrypted.json == {"plaintext": made["plaintext"]}
        assert client.request("GET", "/v1/key/list/").json == {"names": ["first-key", "my-key"]}
        assert client.request("DELETE", "/v1/key/delete/my-key").status == 200
        assert client.request("PUT", "/v1/key/generate/my-key").status == 404
        assert client.request("GET", "/v1/ready").status == 200
        assert "WARN" not in "".join(server.err)


def test_a_server_in_an_outage(aws: FakeAWS, tmp_path: Path) -> None:
    """While the endpoint is away keys that were in use go on, and what needs AWS is 504; then all is well again."""
    cache = {"expiry": {"any": "1ms", "unused": "1ms", "offline": "1h"}}
    with serve(tmp_path, aws, cache=cache) as server:
        client = server.client()
        for name in ("used", "unused"):
            assert client.request("PUT", f"/v1/key/create/{name}").status == 200
        made = client.request("PUT", "/v1/key/generate/used").json
        aws.stop()
        try:
            decrypted = client.request("PUT", "/v1/key/decrypt/used", {"ciphertext": made["ciphertext"]})
            assert decrypted.json == {"plaintext": made["plaintext"]}
            answer = client.request("PUT", "/v1/key/generate/unused")
            assert (answer.status, answer.message) == (504, "failed to read key")
            answer = client.request("PUT", "/v1/key/create/another")
            assert (answer.status, answer.message) == (504, "failed to create key")
            assert client.request("GET", "/v1/ready").status == 504
            server.wait_for("the key store is down: ", errors=True)
        finally:
            aws.start()
        assert client.request("PUT", "/v1/key/generate/unused").status == 200


def test_a_server_that_is_denied(aws: FakeAWS, tmp_path: Path) -> None:
    """A server starts although it is denied its first request, and says so; what it is denied is 502 for clients."""
    aws.fail("ListSecrets", error("AccessDeniedException", "not authorized"))
    with serve(tmp_path, aws) as server:
        server.wait_for('level=WARN msg="a first request to the key store failed', errors=True)
        aws.fail("GetSecretValue", error("AccessDeniedException", "not authorized"))
        answer = server.client().request("PUT", "/v1/key/generate/my-key")
        assert (answer.status, answer.message) == (502, "failed to read key")
        server.wait_for(f"check {SECTION}.credentials and what their IAM policy allows", errors=True, count=2)
        aws.fail("GET", Fault(503))
        answer = server.client().request("GET", "/v1/ready")
        assert (answer.status, answer.message) == (502, "key store is unavailable")


def test_what_the_sdk_has_to_say(aws: FakeAWS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of the SDK is a line of the error log, also at the start, and has nothing that was sent or signed."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.endpoint}/credentials")
    # So soon before their end the SDK asks for new ones with each request, which moto does not have.
    expiration = (datetime.now(UTC) + timedelta(minutes=12)).isoformat()
    given = {"AccessKeyId": "ASIATASK", "SecretAccessKey": SECRET, "Token": TOKEN, "Expiration": expiration}
    aws.fail("GET", Fault(404), Fault(200, json.dumps(given).encode()))  # the first is the probe
    section = {"endpoint": aws.endpoint, "region": REGION}
    with start(tmp_path, keystore={"aws": {"secretsmanager": section}}) as server:
        text = 'level=WARN msg="botocore.credentials: Refreshing temporary credentials failed'
        server.wait_for(text, errors=True)
        before = len(server.err)
        assert server.client().request("PUT", "/v1/key/create/my-key").status == 200
        server.wait_for(text, errors=True, count=before + 1)
    assert all(line.startswith("time=") for line in server.err), server.err
    assert not any(secret in line for secret in (SECRET, TOKEN) for line in server.err)


def test_a_server_without_its_endpoint(aws: FakeAWS, tmp_path: Path) -> None:
    """A server whose endpoint is out of reach does not start, and says which setting is wrong."""
    store = {"aws": {"secretsmanager": {"endpoint": f"http://127.0.0.1:{free_port()}", "region": REGION}}}
    with pytest.raises(AssertionError, match=rf"Error: cannot open the key store: .*check {SECTION}\.endpoint"):
        start(tmp_path, keystore=store)
