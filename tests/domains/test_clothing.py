"""Products: files of every year and kind, what is refused and how, and what the real data look like."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.base.settings import PROJECT
from helpers.base.storage import CourseError
from helpers.domains import amazon as am
from helpers.domains import clothing as pr
from helpers.domains.domain import Domain
from helpers.domains.json_objects import BrokenObject, decode_objects, read_objects
from helpers.domains.wording import CLOTHES
from helpers.eagle.actions import instantiate
from helpers.eagle.banks import CLOTHING_BANK
from helpers.eagle.rewriting import read_answer, start_items, start_of
from helpers.embedding.profiles import Profile
from helpers.embedding.space import build_space

AMAZON = PROJECT.parent / "shared" / "data" / "amazon"
TELLING = "The blue cotton of thing {} runs small around the waist."


def review(user: object, item: object, stars: object = 4.0, time: int = 100, text: str | None = None) -> dict:
    """A review as the files of 2014 and 2018 have it."""
    text = TELLING.format(item) if text is None else text
    fields = {"reviewerID": user, "asin": item, "overall": stars, "reviewText": text, "unixReviewTime": time}
    return {"reviewerName": "Ann", "summary": "Five Stars", **fields}


def review_2023(user: str, item: str, stars: float = 4.0, time: int = 100, variant: str = "red") -> dict:
    ids = {"user_id": user, "parent_asin": item, "asin": f"{item}-{variant}"}
    return ids | {"rating": stars, "title": "Nice", "text": TELLING.format(item), "timestamp": time * 1000}


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def save(path: Path, text: str) -> Path:
    """A text file, packed if its name ends with .gz."""
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


REVIEWS = [review(f"u{u}", f"i{i}", 1 + (u + i) % 5) for u in range(3) for i in range(2)]
EVERYBODY = {"min_user": 1, "min_item": 1}


def refused(words: str, *arguments, **options) -> None:
    """Reading ends in one line with these words."""
    with pytest.raises(CourseError, match=words) as caught:
        am.read_amazon(*arguments, **(EVERYBODY | options))
    assert "\n" not in str(caught.value)


# The stream of objects

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=5)


def cut(text: str, sizes: list[int]) -> list[str]:
    """The text in pieces of these sizes, taken in turn."""
    pieces, start, turn = [], 0, 0
    while start < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[start : start + size])
        start, turn = start + size, turn + 1
    return pieces


@given(OBJECTS, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_chunks_of_any_size_give_the_objects(objects, sizes, indent, ascii_only):
    printed = [json.dumps(o, indent=indent, ensure_ascii=ascii_only) for o in objects]
    text = "\n".join(printed)
    found = list(decode_objects(cut(text, sizes)))
    assert [o for _, o in found] == [json.loads(one) for one in printed] == objects
    starts = np.cumsum([1, *(one.count("\n") + 1 for one in printed)])[: len(objects)]
    assert [line for line, _ in found] == starts.tolist()


@given(OBJECTS.filter(bool), st.integers(1, 40), st.data())
def test_a_text_that_is_cut_off_is_noticed(objects, size, data):
    text = "\n".join(map(json.dumps, objects))
    last = len(text) - len(json.dumps(objects[-1]))
    end = data.draw(st.integers(last + 1, len(text) - 1))
    with pytest.raises(BrokenObject, match=f"^line {len(objects)} "):
        list(decode_objects(cut(text[:end], [size])))


@given(st.text(max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_text_ends_in_objects_or_one_kind_of_error(text, sizes):
    try:
        whole = list(decode_objects([text]))
    except BrokenObject:
        whole = None
    try:
        pieces = list(decode_objects(cut(text, sizes)))
    except BrokenObject:
        pieces = None
    assert pieces == whole


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1}\n{"a": oops}\n' + '{"a": 1}\n' * 9, 2),
        ('{"a": 1}\n{\n "a": 1,\n "b" 2\n}\n' + '{"a": 1}\n' * 9, 4),  # the line of the error, not of the object
        ('{"a": 1}\n\n[1, 2]\n', 3),
        ('{"a": 1}\n{"a": "no end\n}\n' + '{"a": 1}\n' * 9, 2),
        ('{"a": ' + "[" * 100_000, 1),
        ('{"a": ' + "9" * 10_000 + "}", 1),
    ],
)
def test_broken_input_names_its_line(text, line):
    with pytest.raises(BrokenObject, match=f"^line {line} "):
        list(decode_objects([text]))


def test_an_object_without_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("helpers.domains.json_objects.LONGEST", 1000)
    taken = []
    endless = (taken.append(1) or "x" * 100 for _ in iter(int, 1))
    with pytest.raises(BrokenObject, match="no end"):
        list(decode_objects(part for source in (['{"a": "'], endless) for part in source))
    assert len(taken) < 20


def test_literals_are_values_and_nothing_else(tmp_path):
    good = save(tmp_path / "meta.json", "{'asin': 'i0', 'price': 1.5, 'x': None}\n\n{'asin': \"i'1\"}\n")
    assert [(n, o["asin"]) for n, o in read_objects(good)] == [(1, "i0"), (3, "i'1")]
    for bad in ("{'asin': open('x')}", "{'asin': 'i1'", "{'asin'}", "{'a': " + "[" * 10_000):
        path = save(tmp_path / "bad.json.gz", "{'asin': 'i0'}\n" + bad + "\n")
        with pytest.raises(CourseError, match=r"bad\.json\.gz: line 2 is"):
            list(read_objects(path))


# Texts


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Tom &amp; Jerry<br />mug", "Tom & Jerry mug"),
        ("&lt;b&gt;Bold&lt;/b&gt; mug", "Bold mug"),
        ("<script>var a = '<b>';</script>A mug", "A mug"),
        ("var aPageStart = (new Date()).getTime();", ""),
        (None, ""),
        (["a"], ""),
    ],
)
def test_plain_text(text, clean):
    assert pr.plain_line(text) == clean


def test_sentences_of_a_review_are_telling_ones():
    text = "Love it! the fabric is thick and a little stiff at first. I would give it five stars for its colour alone."
    assert pr.sentences(text) == ["The fabric is thick and a little stiff at first."]
    assert pr.sentences("i started to wear these at home in the garden") == [
        "I started to wear these at home in the garden."
    ]
    assert pr.sentences(None) == pr.sentences("") == pr.sentences("- - - - - - - - - -") == []
    assert pr.sentences("Too short. " * 9) == []


def test_a_digest_is_near_the_middle_short_and_does_not_repeat():
    wool = ["The wool of this coat is thick and warm in winter.", "Thick wool, warm in winter, a coat for the cold."]
    odd = "My neighbour has two dogs and a cat on the roof."
    groups = [[odd, wool[0], wool[0], wool[1]], [], ["Silk that is thin and cool in the summer heat."]]
    first, none, last = pr.digests(groups, max_words=30)
    assert [first.startswith(one) for one in wool].count(True) == 1 and first.count("winter") == 1
    assert none == "" and last == groups[2][0]
    assert all(len(text.split()) <= 30 for text in (first, last))
    assert pr.digests(groups, 30) == [first, none, last]
    assert pr.digests([[], []]) == ["", ""] and pr.digests([]) == []


# Files of every year


def check(domain: Domain) -> None:
    assert (domain.n_users, domain.n_items, len(domain.ratings)) == (3, 2, 6)
    assert domain.items["id"].tolist() == ["i0", "i1"]
    assert domain.ratings["rating"].tolist() == [1, 2, 2, 3, 3, 4]
    assert domain.items["plot_text"].str.contains("blue cotton").all()
    assert domain.has_text.all() and "\n" not in "".join(domain.items["plot_text"])


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.json.gz", "r.jsonl.gz"])
def test_files_of_2014_and_2018(tmp_path, name):
    domain = am.read_amazon(save(tmp_path / name, lines(*REVIEWS)), **EVERYBODY)
    check(domain)
    assert domain.items["title"].tolist() == ["Product i0", "Product i1"]
    assert set(domain.items["plot_source"]) == {"reviews"} and domain.items["genres"].tolist() == [[], []]


def test_files_of_2023(tmp_path):
    records = [review_2023(f"u{u}", f"i{i}", 1 + (u + i) % 5) for u in range(3) for i in range(2)]
    check(am.read_amazon(str(save(tmp_path / "r.jsonl", lines(*records))), **EVERYBODY))


def test_pretty_printed_objects_and_a_byte_order_mark(tmp_path):
    text = "\ufeff" + "\r\n".join(json.dumps(record, indent=2) for record in REVIEWS)
    check(am.read_amazon(save(tmp_path / "r.json.gz", text), **EVERYBODY))


def test_gzip_is_known_by_its_content(tmp_path):
    packed = save(tmp_path / "r.gz", lines(*REVIEWS))
    check(am.read_amazon(packed.rename(tmp_path / "r.json"), **EVERYBODY))


def meta(tmp_path: Path, text: str) -> pd.DataFrame:
    reviews = save(tmp_path / "r.json", lines(*REVIEWS))
    return am.read_amazon(reviews, save(tmp_path / "m.json.gz", text), **EVERYBODY).items


def test_metadata_of_2014(tmp_path):
    row = {"asin": "i1", "title": "Mug &amp; cup", "description": "A 'big' mug.", "categories": [["Home", "Mugs"]]}
    items = meta(tmp_path, repr(row) + "\n" + repr({"asin": "other"}) + "\n")
    assert items["title"].tolist() == ["Product i0", "Mug & cup"]
    assert items["genres"].tolist() == [[], ["Home", "Mugs"]]
    assert items["plot_text"][1].startswith("A 'big' mug. The blue cotton")
    assert items["plot_source"].tolist() == ["reviews", "metadata and reviews"]


def test_metadata_of_2018(tmp_path):
    categories = ["Home", "Home", "Washes well and does not fade in the sun", "No fees."]
    row = {
        "asin": "i0",
        "title": "<b>Mug</b>",
        "category": categories,
        "description": ["Big.<br>Blue"],
        "brand": "Acme",
    }
    items = meta(tmp_path, lines({**row, "feature": ["Holds tea"]}, {"asin": "i0", "title": "A second entry"}))
    assert items["title"][0] == "Mug" and items["genres"][0] == ["Home"]
    assert items["plot_text"][0].startswith("By Acme. Big. Blue. Holds tea. The blue")


def test_metadata_of_2023(tmp_path):
    row = {"parent_asin": "i0", "title": "Mug", "features": ["Holds tea"], "description": ["Blue."], "categories": []}
    items = meta(tmp_path, lines({**row, "main_category": "Home &amp; Kitchen", "price": None}))
    assert items["genres"][0] == ["Home & Kitchen"] and items["plot_text"][0].startswith("Blue. Holds tea. The")


def test_a_title_stands_in_for_a_description(tmp_path):
    items = meta(tmp_path, lines({"asin": "i0", "title": "Mug with a handle", "description": [], "feature": None}))
    assert items["plot_text"][0].startswith("Mug with a handle. The blue")


def test_a_product_without_text_is_left_out_with_its_ratings(tmp_path):
    records = [*REVIEWS, review("u9", "dull", text="Great!"), review("u0", "dull", text="")]
    domain = am.read_amazon(save(tmp_path / "r.json", lines(*records)), **EVERYBODY)
    check(domain)
    described = save(tmp_path / "m.json", lines({"asin": "dull", "title": "A mug"}))
    domain = am.read_amazon(tmp_path / "r.json", described, **EVERYBODY)
    assert domain.n_items == 3 and domain.n_users == 4 and domain.items["plot_source"][2] == "metadata"


# Ratings


def test_the_last_rating_of_a_pair_counts(tmp_path):
    again = [review("u0", "i0", 5, 300), review("u0", "i0", 2, 200), review("u1", "i0", 4), review("u1", "i0", 1)]
    path = save(tmp_path / "r.json", lines(*again))
    assert len(am.read_ratings(path)) == 4
    assert am.read_amazon(path, **EVERYBODY).ratings["rating"].tolist() == [5, 1]  # of equal times, the last line


def test_variants_of_2023_are_one_product(tmp_path):
    records = [review_2023("u0", "i0", 2, 1, "red"), review_2023("u0", "i0", 4, 2, "blue")]
    domain = am.read_amazon(save(tmp_path / "r.jsonl", lines(*records)), **EVERYBODY)
    assert domain.items["id"].tolist() == ["i0"] and domain.ratings["rating"].tolist() == [4]


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True, max_size=30)


@given(pairs, st.integers(1, 3), st.integers(1, 3))
def test_nobody_in_the_core_has_too_few_and_nobody_is_missing(rated, min_user, min_item):
    table = pd.DataFrame(rated, columns=["user", "item"], dtype="int64").assign(rating=3.0)
    core = am.keep_core(table, min_user, min_item)
    assert (core["user"].value_counts() >= min_user).all() and (core["item"].value_counts() >= min_item).all()
    left = set(rated)  # one pair at a time, in plain Python
    while bad := [
        (u, i) for u, i in left if sum(u == v for v, _ in left) < min_user or sum(i == j for _, j in left) < min_item
    ]:
        left.discard(bad[0])
    assert set(zip(core["user"], core["item"], strict=True)) == left


# What is refused


def test_files_that_are_no_reviews(tmp_path):
    refused(r"no file .*nowhere\.json: give", tmp_path / "nowhere.json")
    refused("no file .*: give", tmp_path)
    refused(r"empty\.json is empty: give", save(tmp_path / "empty.json", "\n"))
    refused(r"line 1: not a review: .*reviewerID", save(tmp_path / "m.json", lines({"asin": "i0", "title": "Mug"})))
    refused(r"line 1: not a review", save(tmp_path / "n.json", lines({"user_id": "u", "asin": "i", "rating": None})))
    refused(r"c\.csv: line 1 is no JSON object: download", save(tmp_path / "c.csv", "user,item\n1,2\n"))
    (tmp_path / "b.json").write_bytes(b'{"reviewerID": "\xff\xfe"}')
    refused(r"b\.json is not text in UTF-8", tmp_path / "b.json")


@pytest.mark.parametrize("stars", ["four", float("nan"), 6, -1, [4], {}])
def test_a_rating_that_is_none(tmp_path, stars):
    refused(r"line 7: rating or time", save(tmp_path / "r.json", lines(*REVIEWS, review("u", "i", stars))))


@pytest.mark.parametrize("time", ["yesterday", 10**30, float("inf"), [1]])
def test_a_time_that_is_none(tmp_path, time):
    refused(r"line 1: rating or time", save(tmp_path / "r.json", lines(review("u", "i", 4, time))))


def test_damaged_files(tmp_path):
    broken = save(tmp_path / "r.json", lines(*REVIEWS[:3]) + '{"reviewerID": "u1", "asin"\n' + lines(*REVIEWS[3:]))
    refused(r"r\.json: line (4|5) is broken .*: download", broken)
    refused(r"r\.json: line 6 begins an object that has no end", save(broken, lines(*REVIEWS)[:-20]))
    packed = gzip.compress(lines(*REVIEWS * 50).encode())
    for name, data, words in (
        ("short.gz", packed[: len(packed) // 2], r"short\.gz is cut short.*: download"),
        ("header.gz", packed[:6], r"header\.gz is cut short"),
        ("flipped.gz", packed[:40] + bytes(40) + packed[80:], r"flipped\.gz.*(download|mend)"),
        ("sum.gz", packed[:-8] + bytes(8), r"sum\.gz cannot be read .*CRC.*download"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(words, tmp_path / name)


def test_nothing_left(tmp_path):
    path = save(tmp_path / "r.json", lines(*REVIEWS))
    refused(r"no ratings of .* are left: lower min_user \(3\)", path, min_user=3)
    refused(r"describes none of the products: give", path, save(tmp_path / "m.json", lines({"asin": "other"})))
    dull = save(tmp_path / "dull.json", lines(review("u", "i", text="Nice.")))
    refused("no product has a text: give the metadata", dull)


# Memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Each pass over 10,000 reviews of 4,000 bytes takes a small part of the size of the file."""
    path, filler = tmp_path / "r.json", "words that nobody counts " * 160
    with open(path, "w", encoding="utf-8") as file:
        for i in range(10_000):
            ids = f'"user_id": "user{i % 2_000}", "asin": "item{i % 997}", "rating": {1 + i % 5}, "timestamp": {i}'
            file.write(f'{{{ids}, "text": "{filler}"}}\n')
    size = path.stat().st_size
    tracemalloc.start()
    ratings = am.read_ratings(path)
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    core = am.keep_core(am.last_ratings(ratings), 5, 5)
    _, filtering = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 35e6 and len(ratings) == len(core) == 10_000
    assert reading < size / 10 and filtering < size / 4, (reading, filtering, size)


def test_few_sentences_of_a_product_are_kept(tmp_path):
    records = [review(f"u{i}", "i0", text=f"Sentence number {i} about the handle of this blue mug.") for i in range(99)]
    path = save(tmp_path / "r.json", lines(*records))
    names, snippets = am.read_snippets(path, {am.hashed("i0"): 0})
    assert names == ["i0"] and len(snippets[0]) == am.SENTENCES_KEPT


# Cohorts


@given(st.lists(st.integers(18, 99), min_size=1, max_size=200), st.integers(1, 50))
def test_cohorts_cover_every_age_and_are_large_enough(ages, least):
    ages = np.array(ages)
    bands = pr.age_bands(ages, least)
    user = np.searchsorted([old for _, old in bands], ages)
    assert all(bands[u][0] <= age <= bands[u][1] for u, age in zip(user, ages, strict=True))
    assert all(young <= old for young, old in bands) and all(a[1] < b[0] for a, b in pairwise(bands))
    counts = np.bincount(user, minlength=len(bands))
    assert (counts >= min(least, len(ages))).all()


def reviews_of_clothing(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "age", "rating", "text", "division", "department", "class"])


def test_garments_get_a_title_genres_and_a_text(monkeypatch):
    dress = ("General", "Dresses", "Dresses")
    table = reviews_of_clothing(
        (7, 30, 5, TELLING.format("seven"), *dress),
        (7, 30, 2, None, *dress),
        (7, 31, 4, "", None, None, None),
        (8, 30, 3, TELLING.format("eight"), "General", "Tops", "Knits"),  # too few reviews
        (9, 30, 3, None, *dress),  # no text
        (9, 30, 3, "Love it!", *dress),
        (5, 31, 1, TELLING.format("five"), None, None, None),
        (5, 31, 1, TELLING.format("five"), None, None, None),
    )
    monkeypatch.setattr(pr.sources, "fetch", lambda name: Path(name))
    monkeypatch.setattr(pr, "read_clothing", lambda folder: table)
    domain, cohorts = pr.load_clothing_and_cohorts(min_reviews=2, min_cohort=2)
    assert domain.items["title"].tolist() == ["Garment 5", "Dresses 7 (Dresses, General)"]
    assert domain.items["genres"].tolist() == [[], ["Dresses"]]
    assert domain.items["plot_text"].tolist() == [
        TELLING.format("five"),
        TELLING.format("seven"),
    ]
    assert cohorts == [(30, 30), (31, 31)]
    users, items, stars = (column.tolist() for column in domain.triplets)
    assert (users, items, stars) == ([0, 1, 1], [1, 0, 1], [3.5, 1, 4])  # 5 and 2 stars of one age: 3.5
    with pytest.raises(CourseError, match="no garment has 9 reviews: lower"):
        pr.load_clothing(min_reviews=9)


# The real data


@pytest.fixture(scope="module")
def clothing() -> tuple[Domain, list[tuple[int, int]]]:
    return pr.load_clothing_and_cohorts()


def test_clothing_as_the_file_has_it():
    table = pr.read_clothing(pr.sources.fetch("clothing-reviews"))
    assert len(table) == 23_486 and table["id"].nunique() == 1206 and table["text"].isna().sum() == 845
    assert set(table["rating"]) == {1, 2, 3, 4, 5} and (table["age"].min(), table["age"].max()) == (18, 99)
    assert "Initmates" not in set(table["division"])


def test_the_clothing_domain(clothing):
    domain, cohorts = clothing
    assert (domain.n_users, domain.n_items, len(domain.ratings)) == (52, 233, 6405)
    assert domain.has_text.all() and domain.items["title"].is_unique and domain.items["genres"].map(len).min() > 0
    assert len(cohorts) == 52 and cohorts[0] == (18, 20) and cohorts[-1] == (75, 99)
    assert not domain.ratings.duplicated(["user", "item"]).any()
    words = domain.items["plot_text"].str.split().str.len()
    assert words.min() >= 40 and words.max() <= pr.DIGEST_WORDS
    assert not any(re.search(r"\bstars?\b|recommend|\bloved?\b", text) for text in domain.items["plot_text"])


def test_clothes_are_spoken_of_in_their_own_words(clothing):
    domain = clothing[0]
    named = {name for names in domain.items["genres"] for name in names}
    assert named == set(CLOTHES.names) and set(CLOTHES.other_names.values()) <= named
    assert set(CLOTHES.likes + CLOTHES.dislikes) <= named and set(CLOTHES.fallback_themes) <= set(CLOTHES.themes)
    assert domain.texts()[0].startswith("Kind: Intimate, Legwear.\n")
    items = start_items(domain)
    assert len(items) > 200
    start = start_of(domain, items[0], 3)
    assert read_answer(start.text, CLOTHES) == (start.text, "")


def test_the_bank_for_clothes():
    assert len({action.template for action in CLOTHING_BANK}) == 50
    assert set(Counter(action.category for action in CLOTHING_BANK).values()) == {10}
    names = [[first, second] for first in CLOTHES.names for second in CLOTHES.names if first != second]
    for liked, theme in zip(names, CLOTHES.themes, strict=False):
        texts = instantiate(CLOTHING_BANK, Profile(tuple(liked), (), (theme,), CLOTHES))
        assert len(set(texts)) == 50 and not any("{" in text or len(text.split()) > 20 for text in texts)
        assert not any(re.search(r"\bmovie|stories|viewer", text) for text in texts)


def test_a_profile_of_clothes():
    profile = Profile(("Skirts",), ("Swim",), ("silk and satin",), CLOTHES)
    assert str(profile) == "Likes Skirts. Is drawn to clothes with silk and satin. Cares little for Swim."
    assert profile.as_item() == "Kind: Skirts.\nA garment with silk and satin."


def test_clothing_gives_a_space(clothing):
    """Words in place of sentence embeddings: this is about the domain, and takes a second."""
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=256, alternate_sign=False)
    space = build_space(clothing[0], featurise=lambda texts: words.transform(texts).toarray())
    assert space.items.shape[0] == 233 and np.isfinite(space.items).all() and space.items.std() > 0


@pytest.fixture(scope="module")
def amazon() -> Path:
    if not AMAZON.is_dir():
        pytest.skip("no real Amazon files in ../shared/data/amazon")
    return AMAZON


def test_real_gift_cards(amazon):
    ratings = am.read_ratings(amazon / "Gift_Cards_5.json.gz")
    last = am.last_ratings(ratings)
    assert len(ratings) == 2972 and (ratings["item"].nunique(), ratings["user"].nunique()) == (148, 458)
    assert len(last) == 2965 and (last["item"].nunique(), last["user"].nunique()) == (148, 458)
    # Without the seven repeats, six users or products fall below five and take others with them.
    domain = am.read_amazon(amazon / "Gift_Cards_5.json.gz", amazon / "meta_Gift_Cards.json.gz")
    assert (domain.n_users, domain.n_items, len(domain.ratings)) == (453, 147, 2941)
    assert domain.has_text.all() and domain.items["genres"].map(bool).all()
    assert not domain.items["title"].str.contains(r"<|&amp;|Product B0").any()
    every = am.read_amazon(amazon / "Gift_Cards_5.json.gz", amazon / "meta_Gift_Cards.json.gz", **EVERYBODY)
    assert (every.n_users, every.n_items, len(every.ratings)) == (458, 148, 2965)


def test_gift_cards_are_read_where_they_are(monkeypatch, tmp_path, amazon):
    monkeypatch.delenv("STEER_AMAZON", raising=False)
    assert am.gift_cards() == (amazon / "Gift_Cards_5.json.gz", amazon / "meta_Gift_Cards.json.gz")
    monkeypatch.setenv("STEER_AMAZON", str(amazon))
    domain = am.read_amazon(*am.gift_cards())
    assert domain.wording.names and domain.texts()[0].startswith("Kind: Gift Cards")
    assert len(start_items(domain)) > 100
    monkeypatch.setenv("STEER_AMAZON", str(tmp_path))
    with pytest.raises(CourseError, match="put them there, or unset STEER_AMAZON"):
        am.gift_cards()


def test_no_gift_cards(monkeypatch, tmp_path):
    monkeypatch.delenv("STEER_AMAZON", raising=False)
    monkeypatch.setattr(am.settings, "PROJECT", tmp_path / "project")
    assert am.gift_cards() is None


def test_real_fashion_printed_over_many_lines(amazon):
    ratings = am.read_ratings(amazon / "AMAZON_FASHION_5.json.gz")
    assert (len(ratings), ratings["user"].nunique(), ratings["item"].nunique()) == (3176, 406, 31)
    domain = am.read_amazon(amazon / "AMAZON_FASHION_5.json.gz")
    assert len(domain.ratings) == 2962 and domain.n_ratings.min() >= 5
