"""The words of a command line, before any flag is parsed: joined, the last of each, looked up."""

from collections.abc import Sequence


def joined(argv: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """The command line with --flag A B, of the flags named, as --flag=A,B, which absl reads."""
    words, whole = list(argv), []
    while words:
        word = words.pop(0)
        if word.lstrip("-") in pairs and word.startswith("-"):
            pair: list[str] = []
            while words and not words[0].startswith("-") and len(pair) < 2:
                pair.append(words.pop(0))
            # Of two, each is quoted as CSV, for a file's name may hold commas.
            text = ",".join(map(_quoted, pair)) if len(pair) == 2 else "".join(pair)
            word = f"{word}={text}"
        whole.append(word)
    return whole


def overrides(argv: Sequence[str]) -> list[str]:
    """Those words of the command line that set fields of the config: --config.seed=1.

    One for each field: of two the last, which is the one that counts.
    """
    return [word for word in last_of_each(list(argv))[1:] if _field(word)]


def last_of_each(argv: list[str]) -> list[str]:
    """The command line with --config.x V as --config.x=V, of each field the last one alone.

    ml_collections adds the values of a tuple that is given twice to each other.
    """
    words, whole = list(argv), []
    while words:
        word = words.pop(0)
        following = words[0] if words else "-"
        # A flag without a value is a bool's; -1 is a value.
        two = "=" not in word and (not following.startswith("-") or following[1:2].isdigit())
        whole.append(f"{word}={words.pop(0)}" if _field(word) and two else word)
    last = {_field(word): k for k, word in enumerate(whole)}
    return [word for k, word in enumerate(whole) if not _field(word) or last[_field(word)] == k]


def _field(word: str) -> str:
    """The field that --config.x=V and --noconfig.x set, "config.x"; "" for any other word."""
    name = word.lstrip("-").partition("=")[0].removeprefix("no")
    return name if word.startswith("-") and name.startswith("config.") else ""


def values(argv: Sequence[str], name: str) -> list[str]:
    """What a flag is set to, before the flags are parsed: by --name=V and --name V."""
    texts = []
    for word, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        flag, sign, value = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            texts.append(value if sign else following)
    return texts


def _quoted(text: str) -> str:
    """A value as one cell of CSV, as absl's lists are written."""
    return '"{}"'.format(text.replace('"', '""')) if set(text) & set(',"\n') else text
