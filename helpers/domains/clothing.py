"""Products: women's clothing, the default, and the Amazon Reviews files of 2014, 2018 and 2023.

A shop describes a product in a line or not at all, so its text is what the shop says and a digest of what
people write about it: sentences near the centre of all sentences on that product, without verdicts such as
`five stars` or `love it`. Half-praise remains in them. A digest may stem from the very reviews whose ratings
are to be predicted: how well ratings follow from these texts says little about products without reviews.
"""

from __future__ import annotations

import html
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers.base import settings, sources
from helpers.base.storage import CourseError
from helpers.domains.domain import Domain
from helpers.domains.json_objects import read_objects
from helpers.domains.movies import clean_plot
from helpers.domains.wording import CLOTHES, PRODUCTS

DIGEST_WORDS = 70
ABOUT_WORDS = 60  # of the shop's description
SENTENCES = 3  # of a review, from its beginning: most are about the product, later ones about the buyer
KEPT = 12  # sentences of a product that are kept from an Amazon file
ALIKE = 0.5  # cosine from which on a sentence says what another one said
VERDICT = re.compile(
    r"\b(stars?\b|rat(?:e|ed|ing)|recommend|return|refund|lov(?:e|es|ed|ely|ing)\b|lik(?:e|ed) (?:it|th)|hate|great|"
    r"good|perfect|disappoint|favou?rite|best\b|worst|better\b|awful|terrible|horrible|amazing|awesome|excellent|fabulous|"
    r"fantastic|wonderful|gorgeous|beautiful|stunning|adorable|pretty\b|cute|nice|flatter|happ[yi]|unhapp[yi]|pleased|"
    r"poor\b|poorly|cheap|waste|compliment|regret|keeper|obsess|work(?:ed)? (?:for|out)|to work\b|expect|excited)",
    re.IGNORECASE,
)

# --- texts -----------------------------------------------------------------------------------------------


def plain(text: object, max_words: int = ABOUT_WORDS) -> str:
    """One line without HTML, of at most `max_words` words; empty for what is no text, or a script."""
    if not isinstance(text, str) or "getTime()" in text:  # titles of 2018 that are a piece of the page's script
        return ""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", html.unescape(text), flags=re.IGNORECASE | re.DOTALL)
    return clean_plot(text, max_words)


def sentences(review: object) -> list[str]:
    """The first sentences of a review that say something: 8 to 30 words and no verdict."""
    found = re.split(r"(?<=[.!?])\s+", plain(review[:2000] if isinstance(review, str) else "", 200))[:SENTENCES]
    telling = [s for s in found if 8 <= len(re.findall(r"\w+", s)) <= 30 and not VERDICT.search(s)]
    return [s[0].upper() + s[1:] + ("" if s[-1] in ".!?" else ".") for s in telling]


def digests(groups: Sequence[Sequence[str]], max_words: int = DIGEST_WORDS) -> list[str]:
    """For each group of sentences those nearest to its TF-IDF centroid, as one text; empty for an empty group.

    The centroid of all sentences is taken from that of the group: `I wear it` is near the middle of every product
    and tells nothing of any.
    """
    every = [sentence for group in groups for sentence in group]
    if not every:
        return ["" for _ in groups]
    vectors = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True).fit_transform(every).tocsr()
    ends, common = np.cumsum([0, *map(len, groups)]), np.asarray(vectors.mean(axis=0)).ravel()
    return [
        " ".join(pick(group, vectors[a:b], common, max_words)) if group else ""
        for group, a, b in zip(groups, ends[:-1], ends[1:], strict=True)
    ]


def pick(group: Sequence[str], vectors: csr_matrix, common: Float[np.ndarray, " word"], max_words: int) -> list[str]:
    """The sentences nearest to the mean of their vectors, nearest first, that fit and do not repeat one another.

    Args:
        vectors: Float[sentence word], of length 1 each; common: the mean over all groups, taken from that of this one.
    """
    nearness = vectors @ (np.asarray(vectors.mean(axis=0)).ravel() - common)
    chosen, n_words = [], 0
    for i in np.argsort(-np.round(nearness, 9), kind="stable"):  # rounded: the same order on every machine
        length = len(group[i].split())
        if n_words + length > max_words or (chosen and (vectors[chosen] @ vectors[i].T).max() > ALIKE):
            continue
        chosen.append(int(i))
        n_words += length
        if n_words > max_words - 8:  # no sentence is shorter
            break
    return [group[i] for i in chosen]


# --- women's clothing ------------------------------------------------------------------------------------


def load_clothing(*, min_reviews: int = 10, min_cohort: int = 100) -> Domain:
    """Women's clothing: 23,486 reviews of the garments of one shop (Agarap 2018, arXiv:1805.03687).

    The data do not say who wrote a review, only how old she was. A user is therefore a cohort: everybody of one
    age, or of a few neighbouring ages where one has too few reviews. A rating is the mean over the reviews
    that a cohort gave a garment, and may lie between two stars. Whatever is said of a user holds for the average
    of such a group: not for any person in it, whose taste may be quite another, and not for ages as such, since
    the reviewers of one shop are no sample of anything.

    Args:
        min_reviews: garments with fewer are left out; min_cohort: reviews of a cohort at least.

    Raises:
        helpers.base.storage.CourseError: the data cannot be fetched, or no garment has that many reviews.
    """
    return load_clothing_and_cohorts(min_reviews=min_reviews, min_cohort=min_cohort)[0]


def load_clothing_and_cohorts(*, min_reviews: int = 10, min_cohort: int = 100) -> tuple[Domain, list[tuple[int, int]]]:
    """`load_clothing`, together with the youngest and the oldest age of every user."""
    table = read_clothing(sources.fetch("clothing-reviews"))
    items = clothing_items(table, min_reviews)
    table = table[table["id"].isin(items["id"])]
    if table.empty:
        raise CourseError(f"no garment has {min_reviews} reviews: lower min_reviews")
    cohorts = age_bands(table["age"].to_numpy(), min_cohort)
    table = table.assign(
        user=np.searchsorted([old for _, old in cohorts], table["age"]),
        item=pd.Index(items["id"]).get_indexer(table["id"]),
    )
    ratings = table.groupby(["user", "item"], as_index=False)["rating"].mean()
    return Domain("clothing", items, len(cohorts), ratings, CLOTHES), cohorts


def read_clothing(folder: Path) -> pd.DataFrame:
    """One row per review: `id` of the garment, `age`, `rating`, `text`, `division`, `department`, `class`."""
    columns = {"Clothing ID": "id", "Age": "age", "Rating": "rating", "Review Text": "text"}
    columns |= {f"{name} Name": name.lower() for name in ("Division", "Department", "Class")}
    table = pd.read_parquet(folder / "reviews.parquet", columns=list(columns)).rename(columns=columns)
    return table.replace({"division": {"Initmates": "Intimates"}})  # as the file writes it


def clothing_items(table: pd.DataFrame, min_reviews: int) -> pd.DataFrame:
    """The garments with enough reviews and a text, by id: the item table of the domain."""
    rows, groups = [], []
    for number, reviews in table.groupby("id"):
        if len(reviews) >= min_reviews:
            kind, department, division = (commonest(reviews[c]) for c in ("class", "department", "division"))
            places = list(dict.fromkeys(name for name in (department, division) if name))
            title = f"{kind or 'Garment'} {number}" + (f" ({', '.join(places)})" if places else "")
            genres = list(dict.fromkeys(name for name in (department, kind) if name))
            rows.append({"id": number, "title": title, "year": np.nan, "genres": genres})
            groups.append([s for text in reviews["text"] for s in sentences(text)])
    items = pd.DataFrame(rows, columns=["id", "title", "year", "genres"])
    items = items.assign(plot_text=digests(groups), plot_source="reviews")
    return items[items["plot_text"] != ""].reset_index(drop=True)


def commonest(names: pd.Series) -> str:
    """The most frequent name, the first by alphabet of equals; empty if there is none."""
    return min(names.mode(), default="")


def age_bands(ages: Int[np.ndarray, " review"], min_reviews: int) -> list[tuple[int, int]]:
    """Youngest and oldest age of every cohort, in order: as few ages together as give `min_reviews` reviews.

    What is left at the end, too few for a cohort of its own, joins the last one.
    """
    bands, first, count = [], None, 0
    found, counts = np.unique(ages, return_counts=True)
    for age, n in zip(found.tolist(), counts.tolist(), strict=True):
        first, count = age if first is None else first, count + n
        if count >= min_reviews:
            bands.append((first, age))
            first, count = None, 0
    if first is not None:
        bands = [*bands[:-1], (bands[-1][0] if bands else first, int(found[-1]))]
    return bands


# --- Amazon Reviews --------------------------------------------------------------------------------------

GIFT_CARDS = ("Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz")  # reviews and metadata of 2018
FIELDS = "reviewerID, asin and overall (2014, 2018) or user_id, parent_asin and rating (2023)"


@dataclass(frozen=True)
class About:
    """What the shop says of a product, cleaned."""

    title: str
    genres: list[str]
    text: str


def read_amazon(
    reviews: str | Path, metadata: str | Path | None = None, *, min_user: int = 5, min_item: int = 5
) -> Domain:
    """The products of an Amazon Reviews file (2014, 2018 or 2023; .json, .jsonl, plain or .gz), with their ratings.

    The last rating counts where a user rated a product more than once. Memory: the file is read twice as a
    stream. The first pass keeps 28 bytes a review (numbers in arrays; 64-bit hashes stand for the names of users
    and products: among ten million names the chance that any two share one is 3 in a million), and filtering takes
    some four times that; the second keeps a dozen sentences of each product that is left.

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
    """Files of reviews and metadata of Amazon's gift cards (2018, 5-core), or None where absent: no package has them.

    They lie in the folder that the environment variable STEER_AMAZON names, or in `../shared/data/amazon/`, seen
    from the project. Ni, Li, McAuley 2019 say where to ask for them.

    Raises:
        CourseError: the variable names a folder without them.
    """
    folder = settings.own_data("STEER_AMAZON", "amazon")
    if folder is None:
        return None
    reviews, metadata = (folder / name for name in GIFT_CARDS)
    if reviews.is_file() and metadata.is_file():
        return reviews, metadata
    if settings.path_setting("STEER_AMAZON"):
        raise CourseError(f"{folder} lacks {' or '.join(GIFT_CARDS)}: put them there, or unset STEER_AMAZON")
    return None


def first_of(record: dict, *fields: str) -> object:
    """The first of the fields that a record has, or None."""
    for field in fields:
        if record.get(field) is not None:
            return record[field]
    return None


def product_of(record: dict) -> str | None:
    """Name of the product. In 2023 `asin` is a colour or size of the `parent_asin` that the metadata describe."""
    return first_of(record, "parent_asin", "asin")


def hashed(name: str) -> int:
    """A name as a signed 64-bit number."""
    return int.from_bytes(
        blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True
    )


def read_ratings(path: Path) -> pd.DataFrame:
    """One row per review: `user` and `item` (hashes), `rating` (stars), `time` (as the file has it, 0 if not).

    Raises:
        CourseError: no reviews in the file, or one without user, product or a rating of 0 to 5 stars.
    """
    columns = {"user": array("q"), "item": array("q"), "rating": array("f"), "time": array("q")}
    for line, review in read_objects(path):
        user, item = first_of(review, "reviewerID", "user_id"), product_of(review)
        stars = first_of(review, "overall", "rating")
        if user is None or item is None or stars is None:
            raise CourseError(f"{path}, line {line}: no review: give a file of reviews with the fields {FIELDS}")
        try:
            stars, time = float(stars), int(first_of(review, "unixReviewTime", "timestamp") or 0)
        except (TypeError, ValueError, OverflowError):
            stars, time = -1.0, 0
        if not (0 <= stars <= 5 and abs(time) < 2**63):  # also true of NaN
            raise CourseError(f"{path}, line {line}: rating or time is no number, or not 0 to 5 stars: mend that line")
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
    names, snippets = [""] * len(wanted), [[] for _ in wanted]
    for _, review in read_objects(path):
        name = product_of(review)
        number = wanted.get(hashed(name))
        if number is not None:
            names[number] = str(name)
            if len(snippets[number]) < KEPT:
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
    title = plain(record.get("title"), 30)
    names = [plain(name) for name in texts_in(first_of(record, "categories", "category"))]
    # The categories of 2018 end with features, which are sentences.
    genres = [name for name in dict.fromkeys(names) if name and len(name.split()) <= 5 and name[-1] != "."][:4]
    main = plain(first_of(record, "main_category", "main_cat"), 5)
    brand = plain(record.get("brand"), 5)
    parts = [plain(t) for field in ("description", "features", "feature") for t in texts_in(record.get(field))]
    parts = [part for part in dict.fromkeys(parts) if part] or [title] * bool(title)
    text = plain(" ".join(part if part[-1] in ".!?" else f"{part}." for part in parts))
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
