"""Products of the Amazon Reviews files of 2014, 2018 and 2023; their texts are made as in `clothing`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.domains.clothing import digests, plain_line, sentences
from helpers.domains.domain import Domain
from helpers.domains.json_objects import read_objects
from helpers.domains.wording import PRODUCTS

SENTENCES_KEPT = 12  # sentences of a product that are kept
GIFT_CARDS = ("Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz")  # reviews and metadata of 2018
FIELDS = "reviewerID, asin and overall (2014, 2018) or user_id, parent_asin and rating (2023)"


@dataclass(frozen=True)
class About:
    """What the shop says about a product, cleaned."""

    title: str
    genres: list[str]
    text: str


def read_amazon(
    reviews: str | Path, metadata: str | Path | None = None, *, min_user: int = 5, min_item: int = 5
) -> Domain:
    """The products of an Amazon Reviews file (2014, 2018 or 2023; .json, .jsonl, plain or .gz), with their ratings.

    If a user rated a product more than once, the last rating counts. Memory: the file is read twice as a stream. The
    first pass keeps 28 bytes per review (numbers in arrays; 64-bit hashes replace the names of users and products:
    among ten million names the chance that any two share one is 3 in a million), and filtering takes about four times
    that; the second keeps a dozen sentences of each product that is left.

    Args:
        metadata: the file with titles, descriptions and categories of the same products; without it the text of a
            product is a digest of its reviews alone.
        min_user, min_item: users and products with fewer ratings are left out until nobody is below. Products
            without any text are left out after that.

    Raises:
        helpers.base.storage.CourseError: a file is missing, damaged or of another kind, or nothing is left.
    """
    ratings = keep_core(last_ratings(read_ratings(Path(reviews))), min_user, min_item)
    if ratings.empty:
        raise CourseError(f"no ratings of {reviews} are left: lower min_user ({min_user}) or min_item ({min_item})")
    wanted = dict(zip(ratings["item"].unique().tolist(), range(ratings["item"].nunique()), strict=True))
    names, snippets = read_snippets(Path(reviews), wanted)
    about = read_metadata(Path(metadata), wanted) if metadata else {}
    items = amazon_items(names, about, digests(snippets))
    return amazon_domain(items, ratings.assign(item=ratings["item"].map(wanted)))


def gift_cards() -> tuple[Path, Path] | None:
    """Files of reviews and metadata of Amazon's gift cards (2018, 5-core), or None if absent: no package contains them.

    They are looked for in the folder that the environment variable STEER_AMAZON names, or in `../shared/data/amazon/`,
    relative to the project. Ni, Li, McAuley 2019 say how to get them.

    Raises:
        CourseError: the variable names a folder without them.
    """
    folder = settings.own_data("STEER_AMAZON")
    if folder is None:
        return None
    reviews, metadata = (folder / name for name in GIFT_CARDS)
    if reviews.is_file() and metadata.is_file():
        return reviews, metadata
    if settings.path_setting("STEER_AMAZON"):
        raise CourseError(f"{folder} lacks {' or '.join(GIFT_CARDS)}: put them there, or unset STEER_AMAZON")
    return None


def first_of(record: dict[str, Any], *fields: str) -> Any:
    """The first of the fields that a record has, or None."""
    for field in fields:
        if record.get(field) is not None:
            return record[field]
    return None


def product_of(record: dict) -> str | None:
    """Name of the product. In 2023 `asin` is a colour or size of the `parent_asin` that the metadata describe."""
    return first_of(record, "parent_asin", "asin")


def hashed(name: object) -> int:
    """A name as a signed 64-bit number."""
    return int.from_bytes(
        blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True
    )


def read_ratings(path: Path) -> pd.DataFrame:
    """One row per review: `user` and `item` (hashes), `rating` (stars), `time` (as the file has it, 0 if not).

    Raises:
        CourseError: no reviews in the file, or one without user, product or a rating of 0 to 5 stars.
    """
    columns: dict[str, array] = {"user": array("q"), "item": array("q"), "rating": array("f"), "time": array("q")}
    for line, review in read_objects(path):
        user, item = first_of(review, "reviewerID", "user_id"), product_of(review)
        stars = first_of(review, "overall", "rating")
        if user is None or item is None or stars is None:
            raise CourseError(f"{path}, line {line}: not a review: give a file of reviews with the fields {FIELDS}")
        try:
            stars, time = float(stars), int(first_of(review, "unixReviewTime", "timestamp") or 0)
        except (TypeError, ValueError, OverflowError):
            stars, time = -1.0, 0
        if not (0 <= stars <= 5 and abs(time) < 2**63):  # also true of NaN
            raise CourseError(f"{path}, line {line}: rating or time is not a number, or not 0 to 5 stars: fix it")
        for column, value in zip(columns.values(), (hashed(user), hashed(item), stars, time), strict=True):
            column.append(value)
    if not columns["user"]:
        raise CourseError(f"{path} is empty: give a file of reviews with the fields {FIELDS}")
    return pd.DataFrame({name: np.frombuffer(v, v.typecode) for name, v in columns.items()}, copy=False)


def last_ratings(ratings: pd.DataFrame) -> pd.DataFrame:
    """Of every user and item the last rating by time, the last in the file of equals; in the order of the file."""
    ordered = ratings.sort_values("time", kind="stable")
    return ordered.drop_duplicates(["user", "item"], keep="last").sort_index()


def keep_core(ratings: pd.DataFrame, min_user: int, min_item: int) -> pd.DataFrame:
    """The ratings that are left when users and items with too few have gone, again and again until none has."""
    while True:
        counts = [ratings.groupby(name)["rating"].transform("size") for name in ("user", "item")]
        keep = (counts[0] >= min_user) & (counts[1] >= min_item)
        if keep.all():
            return ratings
        ratings = ratings[keep]


def read_snippets(path: Path, wanted: dict[int, int]) -> tuple[list[str], list[list[str]]]:
    """Name and first telling sentences of every wanted product (hash to number), by number."""
    names = [""] * len(wanted)
    snippets: list[list[str]] = [[] for _ in wanted]
    for _, review in read_objects(path):
        name = product_of(review)
        number = wanted.get(hashed(name))
        if number is not None:
            names[number] = str(name)
            if len(snippets[number]) < SENTENCES_KEPT:
                snippets[number] += sentences(first_of(review, "reviewText", "text"))
    return names, snippets


def read_metadata(path: Path, wanted: dict[int, int]) -> dict[int, About]:
    """What the shop says of the wanted products (hash to number), by number; the first of several entries.

    Raises:
        CourseError: the file describes none of them.
    """
    found = {}
    for _, record in read_objects(path):
        number = wanted.get(hashed(product_of(record)))
        if number is not None and number not in found:
            found[number] = about_product(record)
    if not found:
        raise CourseError(f"{path} describes none of the products: give the metadata of the same category and year")
    return found


def texts_in(value: object) -> list[str]:
    """All texts in a text or in lists of texts, in order (2014 has lists of lists of categories)."""
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def about_product(record: dict) -> About:
    """Title, categories and description of one entry of the metadata, of any year."""
    title = plain_line(record.get("title"), 30)
    names = [plain_line(name) for name in texts_in(first_of(record, "categories", "category"))]
    # The categories of 2018 end with features, which are sentences.
    genres = [name for name in dict.fromkeys(names) if name and len(name.split()) <= 5 and name[-1] != "."][:4]
    main = plain_line(first_of(record, "main_category", "main_cat"), 5)
    brand = plain_line(record.get("brand"), 5)
    parts = [plain_line(t) for field in ("description", "features", "feature") for t in texts_in(record.get(field))]
    parts = [part for part in dict.fromkeys(parts) if part] or [title] * bool(title)
    text = plain_line(" ".join(part if part[-1] in ".!?" else f"{part}." for part in parts))
    return About(title, genres or [main] * bool(main), f"By {brand}. {text}" if brand and text else text)


def amazon_items(names: Sequence[str], about: dict[int, About], found: Sequence[str]) -> pd.DataFrame:
    """The item table, in the order of `names`, from metadata (by number) and digests."""
    rows = []
    for number, (name, digest) in enumerate(zip(names, found, strict=True)):
        shop = about.get(number, About("", [], ""))
        origin = [source for source, text in (("metadata", shop.text), ("reviews", digest)) if text]
        rows.append(
            {
                "id": name,
                "title": shop.title or f"Product {name}",
                "year": np.nan,
                "genres": shop.genres,
                "plot_text": " ".join(filter(None, (shop.text, digest))),
                "plot_source": " and ".join(origin),
            }
        )
    return pd.DataFrame(rows)


def amazon_domain(items: pd.DataFrame, ratings: pd.DataFrame) -> Domain:
    """The domain of the items with text and of the users with a rating for one of them.

    Raises:
        CourseError: no item has a text.
    """
    kept = np.flatnonzero(items["plot_text"] != "")
    if not len(kept):
        raise CourseError("no product has a text: give the metadata file as well, or lower min_user and min_item")
    ratings = ratings.assign(item=pd.Index(kept).get_indexer(ratings["item"]))
    ratings = ratings[ratings["item"] >= 0]
    user, users = pd.factorize(ratings["user"])
    numbered = pd.DataFrame(
        {"user": user, "item": ratings["item"].to_numpy(), "rating": ratings["rating"].astype(float)}
    )
    items = items.iloc[kept].reset_index(drop=True)
    wording = replace(PRODUCTS, names=tuple(dict.fromkeys(name for names in items["genres"] for name in names)))
    return Domain("amazon", items, len(users), numbered.reset_index(drop=True), wording)
