"""Byte pairs against counting by hand, words, and tokenizers as files."""

import collections
import json
import logging
import random

import numpy as np
import pytest

from ddpm_jax.data import tokenizers
from ddpm_jax.data.tokenizers import bpe, normal
from ddpm_jax.errors import UserError

TEXTS = [
    "a small red circle at the top left on a white background",
    "a large blue square above a small red circle",
    "the lower the slower, the newest the widest",
    "flag: Côte d’Ivoire, it's the hugging face’s smiling twin!",
]


@pytest.fixture(scope="module")
def trained():
    return tokenizers.train_byte_pair(TEXTS, 600)


def test_each_merge_is_a_most_frequent_pair(trained):
    # Recounted from the whole corpus before each merge, as Sennrich et al. state the algorithm.
    counts = collections.Counter(w for text in TEXTS for w in normal.words(normal.normalised(text)))
    corpus = [([*bpe._symbols(word)], count) for word, count in counts.items()]
    for line in trained.content["merges"]:
        pairs = collections.Counter()
        for symbols, count in corpus:
            for k in range(len(symbols) - 1):
                pairs[symbols[k], symbols[k + 1]] += count
        pair = tuple(line.split(" "))
        assert pairs[pair] == max(pairs.values()) > 1
        for symbols, _ in corpus:
            k = 0
            while k < len(symbols) - 1:
                if (symbols[k], symbols[k + 1]) == pair:
                    symbols[k : k + 2] = ["".join(pair)]
                k += 1
    for word, (symbols, _) in zip(counts, corpus, strict=True):
        numbers = [trained.content["vocabulary"].index(symbol) for symbol in symbols]
        assert trained.encode(word) == numbers


def test_training_depends_on_no_order_and_stops_where_nothing_repeats(trained):
    again = tokenizers.train_byte_pair(reversed(TEXTS), 600)
    assert again.digest == trained.digest
    assert tokenizers.train_byte_pair(["ab cd"], 4096).size == 515
    assert tokenizers.train_byte_pair(TEXTS, 530).size == 530
    assert tokenizers.train_byte_pair(TEXTS, 530).digest != trained.digest


def test_rows_have_beginning_end_and_padding(trained):
    rows = trained(["a red circle", "", "red"], 8)
    assert (rows.dtype, rows.shape) == (np.int32, (3, 8))
    assert (rows[:, 0] == trained.bos).all()
    np.testing.assert_array_equal(rows[1], [trained.bos, trained.eos, *[trained.pad] * 6])
    # The end is the largest number: where a network looks for it by argmax, it is found.
    np.testing.assert_array_equal(rows.argmax(axis=1), (rows == trained.eos).argmax(axis=1))
    assert [trained.decode(row) for row in rows] == ["a red circle", "", "red"]
    np.testing.assert_array_equal(trained(["red"], 8), rows[2:])


def test_any_text_comes_back(trained):
    rng = random.Random(0)
    alphabet = "abc  é😀ßİΣ漢\u0301!'\"123</w>"
    for _ in range(200):
        text = "".join(rng.choice(alphabet) for _ in range(20))
        back = trained.decode(trained.encode(text))
        squeezed = normal.normalised(text)
        assert back.replace(" ", "") == "".join(squeezed.split())


def test_what_does_not_fit_is_said_in_one_line(trained, caplog):
    with caplog.at_level(logging.WARNING):
        rows = trained(["a red circle", "red circle above the square", "red square the circle"], 4)
    assert rows.shape == (3, 4)
    assert rows[0, -1] == trained.eos
    assert len(caplog.messages) == 1
    (line,) = caplog.messages
    assert "'a red circle' has 3 tokens, and 2 fit: cut off is 'circle' (and 2 more" in line
    assert "\n" not in line


def test_words_have_numbers_by_how_often_they_come(caplog):
    tokenizer = tokenizers.train_word_level([*TEXTS, "red circle red"], 8)
    assert tokenizer.content["vocabulary"] == ["the", "a", "red", "circle"]
    with caplog.at_level(logging.WARNING):
        rows = tokenizer(["The RED dog", "a circle"], 6)
    np.testing.assert_array_equal(rows, [[6, 2, 4, 1, 7, 0], [6, 3, 5, 7, 0, 0]])
    assert tokenizer.decode(rows[0]) == "the red <|unknown|>"
    assert caplog.messages == ["the text 'The RED dog' has unknown words: 'dog'"]
    # A text that is cut off and has such words is told with both.
    _, (line,) = tokenizer.rows(["a dog a circle"], 5)
    assert line.endswith(
        "has 4 tokens, and 3 fit: cut off is 'circle'; it has unknown words: 'dog'"
    )


@pytest.mark.parametrize("kind", ["byte_pair", "words"])
def test_a_tokenizer_is_a_file(kind, trained, tmp_path):
    tokenizer = trained if kind == "byte_pair" else tokenizers.train_word_level(TEXTS)
    tokenizers.save(tmp_path / "tokenizer.json", tokenizer)
    read = tokenizers.load(tmp_path / "tokenizer.json")
    assert read.digest == tokenizer.digest
    texts = [*TEXTS, "neue Wörter", ""]
    np.testing.assert_array_equal(read(texts, 40), tokenizer(texts, 40))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    for broken in (
        {**content, "kind": "other"},
        {**content, "vocabulary": [*content["vocabulary"], "a"]},
        {"kind": content["kind"]},
        [],
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"tokenizer.json is not a stored tokenizer") as caught:
            tokenizers.load(tmp_path / "tokenizer.json")
        assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer.json").write_text('{"kind": ')
    with pytest.raises(UserError, match="not a stored tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="no tokenizer at"):
        tokenizers.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t("a text"), "need a list of texts, got one text: 'a text'"),
        (lambda t: t(["a"], 1), "context=1: need at least 2"),
        (lambda t: t([3]), "need a text, got int: 3"),
        (lambda t: t(["a\ud800"]), "lone surrogate"),
        (lambda t: tokenizers.train_byte_pair(["a"], 514), "size=514: .* at least 515"),
        (lambda t: tokenizers.train_byte_pair([" "]), "no word"),
        (lambda t: tokenizers.train_word_level(["a"], 4), "size=4"),
        (lambda t: tokenizers.train_word_level([]), "no word"),
        (lambda t: tokenizers.word_level(["two words"]), "'two words', which is not one word"),
        (lambda t: tokenizers.word_level(["one", "one"]), "twice"),
    ],
)
def test_bad_input_of_a_tokenizer_is_one_line(call, message, trained):
    with pytest.raises(UserError, match=message) as caught:
        call(trained)
    assert "\n" not in str(caught.value)
