"""Texts of products, made from what people write about them; women's clothing, the course's second domain.

A shop describes a product in a line or not at all, so its text is what the shop says and a digest of what
people write about it: sentences near the centre of all sentences on that product, without verdicts such as
`five stars` or `love it`. Some praise remains in them. A digest may come from the very reviews whose ratings
are to be predicted: how well these texts predict ratings says little about products without reviews.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers.base import sources
from helpers.base.storage import CourseError
from helpers.domains.domain import Domain
from helpers.domains.movies import clean_plot
from helpers.domains.wording import CLOTHES

DIGEST_WORDS = 70
ABOUT_WORDS = 60  # of the shop's description
SENTENCES = 3  # of a review, from its beginning: most are about the product, later ones about the buyer
ALIKE = 0.5  # cosine from which a sentence counts as a repetition of another
PRAISE = re.compile(
    r"\b(stars?\b|rat(?:e|ed|ing)|recommend|return|refund|lov(?:e|es|ed|ely|ing)\b|lik(?:e|ed) (?:it|th)|hate|great|"
    r"good|perfect|disappoint|favou?rite|best\b|worst|better\b|awful|terrible|horrible|amazing|awesome|excellent|fabulous|"
    r"fantastic|wonderful|gorgeous|beautiful|stunning|adorable|pretty\b|cute|nice|flatter|happ[yi]|unhapp[yi]|pleased|"
    r"poor\b|poorly|cheap|waste|compliment|regret|keeper|obsess|work(?:ed)? (?:for|out)|to work\b|expect|excited)",
    re.IGNORECASE,
)

# --- texts -----------------------------------------------------------------------------------------------


def plain_line(text: object, max_words: int = ABOUT_WORDS) -> str:
    """One line without HTML, of at most `max_words` words; empty for a script, or anything but text."""
    if not isinstance(text, str) or "getTime()" in text:  # titles of 2018 that are a piece of the page's script
        return ""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", html.unescape(text), flags=re.IGNORECASE | re.DOTALL)
    return clean_plot(text, max_words)


def sentences(review: object) -> list[str]:
    """The first informative sentences of a review: 8 to 30 words and no verdict."""
    found = re.split(r"(?<=[.!?])\s+", plain_line(review[:2000] if isinstance(review, str) else "", 200))[:SENTENCES]
    telling = [s for s in found if 8 <= len(re.findall(r"\w+", s)) <= 30 and not PRAISE.search(s)]
    return [s[0].upper() + s[1:] + ("" if s[-1] in ".!?" else ".") for s in telling]


def digests(groups: Sequence[Sequence[str]], max_words: int = DIGEST_WORDS) -> list[str]:
    """For each group of sentences those nearest to its TF-IDF centroid, as one text; empty for an empty group.

    The centroid of all sentences is subtracted from that of the group: `I wear it` is near the centre of every product
    and describes none.
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
        vectors: Float[sentence word], of unit length; common: the mean over all groups, subtracted from this one's.
    """
    nearness = vectors @ (np.asarray(vectors.mean(axis=0)).ravel() - common)
    chosen: list[int] = []
    n_words = 0
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
    of such a group: not for any person in it, whose taste may be quite different, and not for ages as such, since
    the reviewers of one shop are not a representative sample.

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
    """The most frequent name, the alphabetically first in a tie; empty if there is none."""
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
