"""Keys as files, beyond what every store does (README section 7 "On disk", keystores.md section 2)."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kes.keystore import MAX_VALUE, KeyExists, KeyNotFound, KeyStoreError, Unreachable, connect
from kes.keystore.fs import FSStore
from kes.keystore.settings import FSSettings

VALUE = b"CiQKIOyn3Vb0pTfVJq5pXZ1Y9yKQpPZ8dqfXkqYy0r2ZEAES"
NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount or to become another user")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(directory: Path) -> FSStore:
    return FSStore(str(directory))


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that another user can reach, as pytest's own cannot be."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a file system in memory with the given options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / "mounted"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that runs `script`, which finds the store's class and errors imported."""
    prelude = "import os, sys, resource\nfrom kes.keystore import *\nfrom kes.keystore.fs import FSStore\n"
    command = [sys.executable, "-c", prelude + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def output(script: str, *arguments: object) -> str:
    with child(script, *arguments) as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return out


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Opening


def test_start_up_line(directory: Path) -> None:
    """The start-up output names the directory in full."""
    assert FSStore(f"{directory}/").kms == f"Filesystem: {directory}"


def test_connect(directory: Path) -> None:
    """The settings lead to this store."""
    assert isinstance(connect(FSSettings(str(directory))), FSStore)


def test_directory_is_made(tmp_path: Path) -> None:
    """A missing directory is made with its parents, for the owner alone; opening it again changes nothing."""
    FSStore(str(tmp_path / "a" / "b"))
    FSStore(str(tmp_path / "a" / "b"))
    assert [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b")] == [0o700, 0o700]
    assert entries(tmp_path / "a" / "b") == []


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative to the working directory at the start, also when that changes later."""
    monkeypatch.chdir(tmp_path)
    store = FSStore("keys")
    monkeypatch.chdir("/")
    store.create("my-key", VALUE)
    assert (tmp_path / "keys" / "my-key").read_bytes() == VALUE


@pytest.mark.parametrize(("mode", "who"), [(0o755, None), (0o770, "its group"), (0o777, "everybody on this machine")])
def test_mode_of_an_existing_directory(directory: Path, mode: int, who: str | None) -> None:
    """A directory that is there keeps its mode; only one that others may write is warned about."""
    directory.mkdir()
    directory.chmod(mode)
    store = FSStore(str(directory))
    store.create("my-key", VALUE)
    assert stat.S_IMODE(directory.stat().st_mode) == mode
    warning = f"key store directory {directory}: {who} may change it (mode {mode:04o}); run chmod go-w {directory}"
    assert store.warnings == ((warning,) if who else ())


@pytest.mark.parametrize("below", ["", "sub"])
def test_not_a_directory(directory: Path, below: str) -> None:
    """A path that is not a directory, or leads through a file, is refused with path and reason."""
    directory.write_bytes(b"")
    with pytest.raises(KeyStoreError, match=f"'{directory / below}': Not a directory"):
        FSStore(str(directory / below))


@root_only
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400, 0o500, 0o600])
def test_directory_without_permission(open_to_all: Path, mode: int) -> None:
    """A directory that cannot be listed, searched and written is refused at the start, with path and reason."""
    keys = open_to_all / "keys"
    keys.mkdir()
    os.chown(keys, NOBODY, NOBODY)
    keys.chmod(mode)
    script = """
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    FSStore(sys.argv[1])
except KeyStoreError as e:
    print(e)
"""
    assert output(script, keys, NOBODY) == f"key store directory '{keys}': Permission denied\n"
    keys.chmod(0o700)
    assert output(script, keys, NOBODY) == ""


@root_only
def test_read_only_file_system(mount: Callable[[str], Path]) -> None:
    """A directory on a file system mounted read-only is refused, to root too."""
    path = mount("ro")
    with pytest.raises(KeyStoreError, match=f"'{path}': Read-only file system"):
        FSStore(str(path))


# Files


def test_layout(directory: Path) -> None:
    """One file a key, its content the value alone, mode 0600 under any umask; nothing else is left behind."""
    before = os.umask(0)
    try:
        FSStore(str(directory)).create("my-key", VALUE)
    finally:
        os.umask(before)
    assert entries(directory) == ["my-key"]
    assert (directory / "my-key").read_bytes() == VALUE
    assert stat.S_IMODE((directory / "my-key").stat().st_mode) == 0o600


def test_reads_what_was_put_there(directory: Path, store: FSStore) -> None:
    """A file written by another program is read as it is, a trailing newline included, whatever its mode."""
    (directory / "my-key").write_bytes(VALUE + b"\n")
    assert store.get("my-key") == VALUE + b"\n"


@pytest.mark.parametrize("name", ["", ".", "..", "../keys", "a/b", "/etc/passwd", "a\\b", ".hidden", "a.b", "a\0b"])
def test_names_that_are_no_file_names(directory: Path, store: FSStore, name: str) -> None:
    """A name that could leave the directory or hide in it is a plain error in every call, and touches nothing."""
    for call in (lambda: store.create(name, VALUE), lambda: store.get(name), lambda: store.delete(name)):
        with pytest.raises(KeyStoreError, match="cannot be the name of a key file") as caught:
            call()
        assert type(caught.value) is KeyStoreError
    assert entries(directory) == []


def test_name_too_long_for_a_file(store: FSStore) -> None:
    """A name that the file system refuses is a plain error, not a key that does not exist."""
    for call in (lambda: store.create("a" * 300, VALUE), lambda: store.get("a" * 300)):
        with pytest.raises(KeyStoreError, match="File name too long") as caught:
            call()
        assert type(caught.value) is KeyStoreError


def test_empty_file(directory: Path, store: FSStore) -> None:
    """A file of 0 bytes is an error, never "not found"; it takes its name, and goes by a delete only."""
    (directory / "my-key").touch()
    with pytest.raises(KeyStoreError, match="not 0") as caught:
        store.get("my-key")
    assert type(caught.value) is KeyStoreError
    with pytest.raises(KeyExists):
        store.create("my-key", VALUE)
    assert (directory / "my-key").stat().st_size == 0
    store.delete("my-key")
    store.create("my-key", VALUE)


def test_long_file(directory: Path, store: FSStore) -> None:
    """A file of 1 MiB is read, one byte more is an error; it is never cut."""
    (directory / "my-key").write_bytes(b"x" * MAX_VALUE)
    assert len(store.get("my-key")) == MAX_VALUE
    (directory / "my-key").write_bytes(b"x" * (MAX_VALUE + 1))
    with pytest.raises(KeyStoreError, match="1 to 1048576 bytes") as caught:
        store.get("my-key")
    assert type(caught.value) is KeyStoreError


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        make_socket,
        lambda path: path.symlink_to("my-key"),
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("."),
    ],
    ids=["directory", "fifo", "socket", "circle", "dangling link", "link to a device", "link to a directory"],
)
def test_what_is_no_file(directory: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no regular file is not listed, does not hang a read, and is neither found missing nor overwritten."""
    monkeypatch.chdir("/")
    store = FSStore(str(directory))
    make(directory / "my-key")
    before = (directory / "my-key").lstat()
    with pytest.raises(KeyStoreError) as caught:
        store.get("my-key")
    assert type(caught.value) is KeyStoreError
    with pytest.raises(KeyExists):
        store.create("my-key", VALUE)
    assert store.list("", "", 0) == ([], "")
    assert os.path.samestat((directory / "my-key").lstat(), before)


def test_pipe_with_a_writer(directory: Path, store: FSStore) -> None:
    """What comes out of a pipe is not a key, whatever it is."""
    os.mkfifo(directory / "my-key")
    fd = os.open(directory / "my-key", os.O_RDWR)
    os.write(fd, VALUE)
    with pytest.raises(KeyStoreError, match="not a regular file"):
        store.get("my-key")
    os.close(fd)


def test_linked_file(tmp_path: Path, directory: Path, store: FSStore) -> None:
    """A symbolic link to a key file is that key, as where secrets are mounted in that way; deleting it unlinks it."""
    (tmp_path / "elsewhere").write_bytes(VALUE)
    (directory / "my-key").symlink_to(tmp_path / "elsewhere")
    assert store.get("my-key") == VALUE
    assert store.list("", "", 0) == (["my-key"], "")
    store.delete("my-key")
    assert (tmp_path / "elsewhere").exists()
    assert store.list("", "", 0) == ([], "")


def test_deleting_a_directory(directory: Path, store: FSStore) -> None:
    """A directory in place of a key is not deleted."""
    (directory / "my-key").mkdir()
    with pytest.raises(KeyStoreError, match="delete key 'my-key'"):
        store.delete("my-key")
    assert (directory / "my-key").is_dir()


@root_only
def test_unreadable_file(open_to_all: Path) -> None:
    """A file that may not be read is an error, not a missing key; it is listed, for it takes its name."""
    os.chown(open_to_all, NOBODY, NOBODY)
    (open_to_all / "my-key").write_bytes(VALUE)
    (open_to_all / "my-key").chmod(0o600)
    script = """
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
store = FSStore(sys.argv[1])
try:
    store.get("my-key")
except KeyStoreError as e:
    print(type(e).__name__, e)
print(store.list("", "", 0))
"""
    assert output(script, open_to_all, NOBODY) == (
        f"KeyStoreError read key 'my-key' in '{open_to_all}': Permission denied\n(['my-key'], '')\n"
    )


def test_directory_gone(directory: Path, store: FSStore) -> None:
    """When the directory itself is gone every call fails as unreachable; no key is found missing. It is not remade."""
    store.create("my-key", VALUE)
    directory.rename(directory.with_name("moved"))
    calls: list[Callable[[], object]] = [
        lambda: store.get("my-key"),
        lambda: store.create("my-key", VALUE),
        lambda: store.delete("my-key"),
        lambda: store.list("", "", 0),
        store.status,
    ]
    for replace in (lambda: None, lambda: directory.write_bytes(b"")):
        replace()
        for call in calls:
            with pytest.raises(Unreachable, match=f"key store directory '{directory}'"):
                call()
    directory.unlink()
    directory.with_name("moved").rename(directory)
    assert store.get("my-key") == VALUE
    assert store.status() >= 0


# Durability


@pytest.fixture
def synced(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What was synced, and the entries of the directory at that moment."""
    record: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def recording(fd: int) -> None:
        record.append((str(Path(f"/proc/self/fd/{fd}").readlink()), entries(directory)))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recording)
    return record


def test_create_is_on_disk(directory: Path, store: FSStore, synced: list[tuple[str, list[str]]]) -> None:
    """The file is synced before it has its name, the directory after that."""
    store.create("my-key", VALUE)
    (file, first), (last, second) = synced
    assert first == [Path(file).name]
    assert Path(file).name.startswith(".")
    assert (last, second) == (str(directory), ["my-key"])


def test_delete_is_on_disk(directory: Path, store: FSStore, synced: list[tuple[str, list[str]]]) -> None:
    """The directory is synced after the file has gone."""
    (directory / "my-key").write_bytes(VALUE)
    store.delete("my-key")
    assert synced == [(str(directory), [])]


def test_new_directory_is_on_disk(tmp_path: Path, directory: Path, synced: list[tuple[str, list[str]]]) -> None:
    """The directories that hold the new ones are synced."""
    directory.mkdir()
    FSStore(str(directory / "a" / "b"))
    assert [path for path, _ in synced][:2] == [str(directory), str(directory / "a")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_system_that_cannot_sync_a_directory(
    directory: Path, store: FSStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file systems have no such call; that is not a failure to create. Another error is."""
    fsync = os.fsync

    def refusing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refusing)
    store.create("my-key", VALUE)
    number = errno.EIO
    with pytest.raises(KeyStoreError, match="Input/output error"):
        store.create("other", VALUE)


@root_only
@pytest.mark.parametrize(
    ("options", "fillers"),
    [
        ("size=64k,nr_inodes=3", [0, 0]),  # the directory counts as one: no temporary file can be made
        ("size=64k,nr_inodes=3", [0]),  # it can, but no link, which counts as another here
        ("size=64k", [64 << 10]),  # nothing can be written
        ("size=64k", [56 << 10]),  # two pages of three can be written
    ],
    ids=["open", "link", "write", "rest"],
)
def test_disk_full(mount: Callable[[str], Path], options: str, fillers: list[int]) -> None:
    """On a full disk a create fails with the reason and leaves nothing. The store opens all the same, and recovers."""
    path = mount(options)
    value = b"v" * (12 << 10)
    names = [f"filler{number}" for number in range(len(fillers))]
    for name, size in zip(names, fillers, strict=True):
        (path / name).write_bytes(b"x" * size)
    store = FSStore(str(path))
    with pytest.raises(KeyStoreError, match=f"create key 'my-key' in '{path}': No space left on device") as caught:
        store.create("my-key", value)
    assert type(caught.value) is KeyStoreError
    assert entries(path) == names
    with pytest.raises(KeyNotFound):
        store.get("my-key")
    with pytest.raises(KeyExists):
        store.create(names[0], value)
    for name in names:
        store.delete(name)
    store.create("my-key", value)
    assert store.get("my-key") == value


def test_write_cut_short(directory: Path) -> None:
    """A write that ends half-way leaves neither a key nor a temporary file."""
    script = """
store = FSStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    store.create("my-key", b"v" * 250)
except KeyStoreError as e:
    print(e)
store.create("small", b"v" * 100)
"""
    assert output(script, directory) == f"create key 'my-key' in '{directory}': File too large\n"
    assert entries(directory) == ["small"]


# Without hard links


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def no_hard_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("no_hard_links")
def test_without_hard_links(directory: Path, store: FSStore) -> None:
    """Where there are no hard links the file is made in place, exclusively, for the owner alone."""
    store.create("my-key", VALUE)
    assert entries(directory) == ["my-key"]
    assert store.get("my-key") == VALUE
    assert stat.S_IMODE((directory / "my-key").stat().st_mode) == 0o600
    with pytest.raises(KeyExists):
        store.create("my-key", b"other")
    assert store.get("my-key") == VALUE


@pytest.mark.usefixtures("no_hard_links")
def test_late_without_hard_links(directory: Path, store: FSStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process makes after the first look is not replaced either."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    (directory / "my-key").write_bytes(VALUE)
    with pytest.raises(KeyExists):
        store.create("my-key", b"other")
    assert entries(directory) == ["my-key"]
    assert store.get("my-key") == VALUE


@root_only
@pytest.mark.usefixtures("no_hard_links")
def test_disk_full_without_hard_links(mount: Callable[[str], Path]) -> None:
    """The file made in place is removed when it cannot be written to its end."""
    path = mount("size=64k")
    store = FSStore(str(path))
    with pytest.raises(KeyStoreError, match="No space left on device"):
        store.create("my-key", b"v" * (40 << 10))  # once it fits, as a temporary file, but not twice
    assert entries(path) == []


def test_failure_to_link(directory: Path, store: FSStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that fails for another reason than being unsupported is an error, and leaves nothing."""

    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(KeyStoreError, match=r"create key 'my-key' in '.*': Input/output error"):
        store.create("my-key", VALUE)
    assert entries(directory) == []


def test_link_whose_answer_was_lost(directory: Path, store: FSStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may link, lose the answer, ask again and find the name taken: the key was created."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    store.create("my-key", VALUE)
    assert entries(directory) == ["my-key"]
    assert store.get("my-key") == VALUE


def test_late(directory: Path, store: FSStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process makes after the first look is not replaced: the link decides."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    (directory / "my-key").write_bytes(VALUE)
    with pytest.raises(KeyExists):
        store.create("my-key", b"other")
    assert entries(directory) == ["my-key"]
    assert store.get("my-key") == VALUE


# Temporary files


def test_abandoned_files(directory: Path, store: FSStore) -> None:
    """What a killed process left is removed at the next start, once it is an hour old, and is never listed."""
    old, fresh = "." + "0" * 32 + ".tmp", "." + "f" * 32 + ".tmp"
    others = [".x.tmp", "0" * 32 + ".tmp", ".tmp", old + "x"]
    for name in (old, fresh, *others):
        (directory / name).write_bytes(VALUE)
        os.utime(directory / name, times=(0, 0))
    just_under_an_hour_ago = time.time() - 3590
    os.utime(directory / fresh, times=(just_under_an_hour_ago, just_under_an_hour_ago))
    assert store.list("", "", 0) == ([], "")
    FSStore(str(directory))
    assert entries(directory) == sorted([fresh, *others])


# Several processes


def test_two_processes_create_the_same_names(directory: Path) -> None:
    """Each name is created by exactly one of two processes, and what is read is that one's value."""
    script = """
store = FSStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    try:
        store.create(f"k{number}", f"{sys.argv[2]} k{number}".encode())
        print(f"k{number}")
    except KeyExists:
        pass
"""
    prelude = "import sys\nfrom kes.keystore import *\nfrom kes.keystore.fs import FSStore\n"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + script, directory, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("first", "second")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    created = [set(process.communicate(timeout=20)[0].split()) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    names = {f"k{number}" for number in range(200)}
    assert created[0] | created[1] == names
    assert created[0] & created[1] == set()
    store = FSStore(str(directory))
    for name in names:
        winner = "first" if name in created[0] else "second"
        assert store.get(name) == f"{winner} {name}".encode()
    assert entries(directory) == sorted(names)


def test_killed_while_creating(directory: Path) -> None:
    """Whenever a process is killed: what it was told is created is there and whole, and so is all that is listed."""
    script = """
store = FSStore(sys.argv[1])
for number in range(10**6):
    name = f"{sys.argv[2]}-{number}"
    store.create(name, (name + " ").encode() * 500)
    print(name, flush=True)
"""
    promised: list[str] = []
    for number in range(8):
        with child(script, directory, f"round{number}") as process:
            assert process.stdout is not None
            promised += [process.stdout.readline().strip() for _ in range(random.randint(1, 30))]
            process.kill()
            promised += process.stdout.read().split()
    store = FSStore(str(directory))
    listed = store.list("", "", 0)[0]
    assert set(promised) <= set(listed)
    for name in listed:
        assert store.get(name) == (name + " ").encode() * 500
