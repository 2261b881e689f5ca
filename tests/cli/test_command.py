"""How arguments are read (cli.md 1.2, 1.3), on a small table of its own and on arbitrary arguments for the real one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kes.cli.command import Argument, Command, Given, NothingToDo, Option, duration, find, line_of, one_of, parse, shown
from kes.cli.errors import CommandError
from kes.cli.table import ROOT

COLORS = one_of("auto", "never")
COLOR = Option("color", "", value="WHEN", parse=COLORS, choices=("auto", "never"), default="auto")
SERVER = Option("server", "", short="s", value="HOST")
FORCE = Option("force", "", short="f")
INSECURE = Option("insecure", "", short="k")
TABLE = Command(
    "kes",
    "",
    options=(Option("version", "", short="v"),),
    run="tests:none",
    commands=(
        Command("ls", "", run="tests:none", options=(SERVER, INSECURE), aliases=("list",)),
        Command("status", "", run="tests:none", options=(Option("short", "", short="s"),)),
        Command(
            "key",
            "",
            commands=(
                Command(
                    "create",
                    "",
                    run="tests:none",
                    options=(
                        SERVER,
                        FORCE,
                        INSECURE,
                        COLOR,
                        Option("dns", "", value="NAME", many=True),
                        Option("rate", "", value="DURATION", parse=duration, default=5.0),
                        Option("to", "", value="FILE", aliases=("target",)),
                        Option("secret", "", value="KEY", parse=COLORS, secret=True),
                    ),
                    arguments=(Argument("NAME", ""), Argument("MORE", "", optional=True, many=True)),
                ),
                Command("info", "", run="tests:none", arguments=(Argument("NAME", ""), Argument("OTHER", ""))),
            ),
        ),
        Command(
            "identity",
            "",
            run="tests:none",
            arguments=(Argument("FILE", "", optional=True),),
            commands=(Command("new", "", run="tests:none", options=(FORCE,)),),
        ),
    ),
)


def read(line: str) -> Given:
    return parse(TABLE, line.split())


def error(line: str) -> str:
    with pytest.raises(CommandError) as caught:
        read(line)
    return str(caught.value)


class TestOptions:
    @pytest.mark.parametrize("text", ["--server x", "--server=x", "-s x", "-sx", "-s=x", "-kfs x", "-kfsx", "-kfs=x"])
    def test_spellings(self, text: str) -> None:
        """All GNU spellings of a value mean the same, also behind short booleans."""
        given = read(f"key create {text} name")
        assert given.text("server") == "x"
        assert given.words == ("name",)
        assert given.flag("force") is given.flag("insecure") is text.startswith("-kf")

    @pytest.mark.parametrize(
        ("text", "value"),
        [("--force", True), ("--force=true", True), ("--force=FALSE", False), ("--force=0", False), ("-f=t", True),
         ("-kf=f", False), ("--force --force=false", False), ("", False)],
    )  # fmt: skip
    def test_booleans(self, text: str, value: bool) -> None:
        """A boolean takes its value after `=` only; the last one wins, and without any it is false."""
        assert read(f"key create name {text}").flag("force") is value

    @pytest.mark.parametrize(
        "line",
        [
            "-s host ls -k",
            "ls -s host -k",
            "-k ls -shost",
            "--server host --insecure ls",
            "-ks host ls",
            "-k -s=host list",
        ],
    )
    def test_anywhere(self, line: str) -> None:
        """Options may stand before the command, which is still found behind their values."""
        given = read(line)
        assert line_of(given.path) == "kes ls"
        assert (given.text("server"), given.flag("insecure")) == ("host", True)

    def test_meaning_by_command(self) -> None:
        """`-s` is a value's name in one command and a boolean in another: a command's name behind it tells."""
        assert read("-s status").flag("short")
        assert read("status -s").flag("short")
        assert read("-sstatus ls").text("server") == "status"

    def test_values_that_look_like_options(self) -> None:
        """What follows a name that needs a value is the value, whatever it looks like."""
        assert read("key create -s -k name").text("server") == "-k"
        assert read("key create --server -- name").text("server") == "--"

    def test_end_of_options(self) -> None:
        """After `--` everything is an argument, and so is `-` anywhere."""
        assert read("key create -- -f --server").words == ("-f", "--server")
        assert read("key create - -f").words == ("-",)
        assert line_of(read("identity -- new").path) == "kes identity"

    def test_last_wins(self) -> None:
        """The last value wins."""
        assert read("key create -s a -s b name --server=c").text("server") == "c"

    def test_lists(self) -> None:
        """What may be repeated may also be separated by commas; blanks around do not count."""
        given = parse(TABLE, ["key", "create", "--dns", "a, b", "name", "--dns=c"])
        assert given.texts("dns") == ("a", "b", "c")
        assert read("key create name").texts("dns") == ()

    def test_alias(self) -> None:
        """An alias is the option itself."""
        given = read("key create name --target x")
        assert given.text("to") == "x"
        assert given.is_set("to")

    def test_defaults(self) -> None:
        """What is not given has its default, and is not set."""
        given = read("key create name --rate 1m30s")
        assert (given.seconds("rate"), given.text("color"), given.text("server")) == (90.0, "auto", None)
        assert given.is_set("rate")
        assert not given.is_set("color")

    def test_choices(self) -> None:
        """Fixed values are taken in any case."""
        assert read("key create name --color=NEVER").text("color") == "never"

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("ls --foo", "unknown flag: --foo. See 'kes ls --help'"),
            ("ls --foo=bar", "unknown flag: --foo. See 'kes ls --help'"),
            ("ls --serv x", "unknown flag: --serv. See 'kes ls --help'"),
            ("--foo", "unknown flag: --foo. See 'kes --help'"),
            ("key create -z", "unknown shorthand flag: 'z' in -z. See 'kes key create --help'"),
            ("key create -fzk", "unknown shorthand flag: 'z' in -zk. See 'kes key create --help'"),
            ("ls -s", "flag needs an argument: 's' in -s. See 'kes ls --help'"),
            ("ls -ks", "flag needs an argument: 's' in -s. See 'kes ls --help'"),
            ("ls --server", "flag needs an argument: --server. See 'kes ls --help'"),
            (
                "key create n --color x",
                'invalid argument "x" for "--color" flag: write auto or never. See \'kes key create --help\'',
            ),
            (
                "key create n --force=x",
                'invalid argument "x" for "--force" flag: write true or false. See \'kes key create --help\'',
            ),
            (
                "key create n --rate 5",
                'invalid argument "5" for "--rate" flag: not a duration: write numbers with units, such as 1h30m, 20s '
                "or 300ms. See 'kes key create --help'",
            ),
        ],
    )
    def test_errors(self, line: str, message: str) -> None:
        """The texts of cli.md 1.3."""
        assert error(line) == message


class TestWords:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("foo", "\"foo\" is not a kes command. See 'kes --help'"),
            ("foo --bar", "\"foo\" is not a kes command. See 'kes --help'"),
            ("-- ls", "\"ls\" is not a kes command. See 'kes --help'. Did you mean 'kes ls'?"),
            ("key foo", "\"foo\" is not a key command. See 'kes key --help'"),
            ("key creat x", "\"creat\" is not a key command. See 'kes key --help'. Did you mean 'kes key create'?"),
            ("lst", "\"lst\" is not a kes command. See 'kes --help'. Did you mean 'kes list'?"),
            ("ls a", "unexpected argument \"a\". See 'kes ls --help'"),
            ("key info a", "missing argument OTHER. See 'kes key info --help'"),
            ("key info a b c", "unexpected argument \"c\". See 'kes key info --help'"),
        ],
    )
    def test_errors(self, line: str, message: str) -> None:
        """Words that are no commands, with the nearest that is one; and arguments too many or too few."""
        assert error(line) == message

    @pytest.mark.parametrize("line", ["key", "key create", "key create --force", "key info"])
    def test_nothing_to_do(self, line: str) -> None:
        """Without any of the words that are needed there is nothing to do, and the usage is due."""
        with pytest.raises(NothingToDo):
            read(line)

    def test_both_command_and_parent(self) -> None:
        """`identity` runs by itself, with an argument, and has commands below it."""
        assert read("identity").words == ()
        assert read("identity file").words == ("file",)
        assert line_of(read("identity new").path) == "kes identity new"

    @pytest.mark.parametrize("line", ["-h", "key -h", "key create --help", "key -fh create", "ls extra --help --foo"])
    def test_help(self, line: str) -> None:
        """Help is for every command, and what follows it or is missing does not matter."""
        assert read(line).help


@pytest.mark.parametrize(
    "text", ["kes:v1:AKqwms5wRWf0p94XmeD0FYJkeVnFeA9uW", "xkes:v1:A", "v1:AKqwms5wRWf0p", "-----BEGIN PRIVATE KEY-----"]
)
def test_no_secret_is_repeated(text: str) -> None:
    """An API key or private key in the wrong place is in no error."""
    for arguments in (
        *([text], ["ls", text], ["ls", f"-x{text}"], ["ls", f"--{text}"], ["key", text]),
        *(["key", "create", "--color", text], ["key", "create", f"--rate={text}"]),
    ):
        with pytest.raises(CommandError) as caught:
            parse(TABLE, arguments)
        assert text[4:20] not in str(caught.value)


def test_no_secret_value_is_repeated() -> None:
    """The value of an option marked as secret is in no error, whatever it looks like."""
    assert "hunter2" not in error("key create --secret hunter2 name")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", '"a"'), ("a\n\x1b[31m", '"a\\n\\x1b[31m"'), ("\udcff", '"\\udcff"'), ("é\u202e", '"é\\u202e"'),
     ("x" * 65, '"' + "x" * 64 + '…"'), ("", '""')],
)  # fmt: skip
def test_shown(text: str, expected: str) -> None:
    """What an error repeats is one line, of what can be printed, and not long."""
    assert shown(text) == expected


words = [word for command in ROOT.tree() for word in (command.name, *command.aliases)]
flags = [f"--{option.name}" for command in ROOT.tree() for option in command.options]
shorts = [f"-{option.short}" for command in ROOT.tree() for option in command.options if option.short]
pieces = st.one_of(
    st.sampled_from(words),
    st.sampled_from(flags),
    st.sampled_from(shorts),
    st.builds(str.__add__, st.sampled_from(flags), st.text(max_size=5).map("={}".format)),
    st.text(max_size=8),
    st.text("-=,hkfs", max_size=5),
)


@settings(max_examples=400)
@given(st.lists(pieces, max_size=6))
def test_any_arguments(arguments: list[str]) -> None:
    """Whatever is typed gives a command to run, an error in one line, or the usage."""
    path, before, rest = find(ROOT, arguments)
    assert len(path) - 1 + len(before) + len(rest) == len(arguments)
    try:
        found = parse(ROOT, arguments)
    except (CommandError, NothingToDo) as error:
        found = error
    if isinstance(found, Given):
        assert found.help or found.command.run
        assert found.path == path
    else:
        assert str(found).isprintable()
