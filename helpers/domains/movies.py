"""Movies: MovieLens ratings joined with plots from three sources, by normalised title and year.

Precision comes before coverage. A plot source that states the year must agree within one year; the source
without years (CMU) is used only when nothing contradicts it (see `match_by_title`).
"""

from __future__ import annotations

import html
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.base import sources
from helpers.base.reading import encoding_of, read_text
from helpers.base.storage import CourseError
from helpers.domains.domain import Domain

PLOT_WORDS = 120
SOURCES = ("tmdb", "cmu", "wikipedia")  # in the order in which a plot is taken when several exist
ARTICLES = "the|a|an|la|le|les|el|il|lo|los|las|das|der|die|un|une|l'"
FILM_OF_YEAR = re.compile(  # "is a 1958 American film", or "(1947) is a romantic film"
    r"\b(?:is|was) an? [^.]{0,40}?\b((?:19|20)\d\d)\b[^.]{0,120}?\bfilm\b"
    r"|\(((?:19|20)\d\d)\) is an? [^.]{0,80}?\bfilm\b"
)
# `(1995)`, `(1995))`, of series `(2006–2007)` and `(2007- )`; other names of the film may follow.
YEAR = re.compile(r"\s*\(((?:18|19|20)\d\d)\s*(?:[-–]\s*(?:\d{4})?\s*)?\)+")
OTHER_NAME = re.compile(r"\s+\(((?:[^()]|\([^()]*\))*)\)$")


@dataclass(frozen=True)
class Plot:
    """A plot as a source has it: normalised titles, year (NaN if not stated), genre words and text."""

    titles: frozenset[str]
    year: float
    genres: str
    text: str


# --- titles ----------------------------------------------------------------------------------------------


def normalise_title(title: str) -> str:
    """Lower-case ASCII words without punctuation and without a leading article."""
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", " ", text.replace("&", " and ").replace("'", ""))
    return re.sub(r"^(the|a|an|la|le|les|el|il|lo|los|las|das|der|die) ", "", " ".join(words.split()))


def split_year(title: str) -> tuple[str, float]:
    """A title without the year in brackets that follows it, and that year (NaN if there is none)."""
    years = [found for found in YEAR.finditer(title) if title[: found.start()].strip()]
    if not years:
        return title.strip(), np.nan
    return (title[: years[-1].start()] + title[years[-1].end() :]).strip(), float(years[-1][1])


def split_names(title: str) -> tuple[str, list[str]]:
    """A title, and the other names that MovieLens gives in brackets after it, without their `a.k.a.`

    Brackets elsewhere belong to the title: `(500) Days of Summer`, `What the #$*! Do We (K)now!?`, and so does what
    follows an `Or`: `Birdman: Or (The Unexpected Virtue of Ignorance)`.
    """
    names: list[str] = []
    while (found := OTHER_NAME.search(title)) and not re.search(r"^\s*$|\bor$", title[: found.start()], re.IGNORECASE):
        title, name = title[: found.start()], found[1].strip()
        names.insert(0, re.sub(r"^a\.?k\.?a\.?\s+", "", name, flags=re.IGNORECASE))
    return title, names


def title_variants(title: str) -> list[str]:
    """Normalised forms of a MovieLens title: the title, then its other names.

    MovieLens writes `City of Lost Children, The (Cité des enfants perdus, La)`.
    """
    main, names = split_names(title)
    return list(dict.fromkeys(t for t in map(normalise_title, map(readable_title, [main, *names])) if t))


def readable_title(title: str) -> str:
    """`Godfather, The` as people say it: `The Godfather`."""
    title = title.strip()
    moved = re.match(rf"^(.*), ({ARTICLES})$", title, flags=re.IGNORECASE)
    if not moved:
        return title
    return f"{moved[2]}{moved[1]}" if moved[2].endswith("'") else f"{moved[2]} {moved[1]}"


# --- the three plot sources ------------------------------------------------------------------------------


def clean_plot(text: str, max_words: int = PLOT_WORDS) -> str:
    """Plain text of at most `max_words` words, cut after a whole sentence where one ends in time."""
    text = re.sub(r"\{\{.*?\}\}|\[\[|\]\]|<[^>]+>", " ", html.unescape(text))
    text = " ".join(re.sub(r"\S*(?:\{\{|\}\}|[|<>])\S*", " ", text).split())  # what is left of broken markup
    text = re.sub(r"\s+([,.;!?])", r"\1", text)
    words = text.split()
    if len(words) <= max_words:
        return text
    cut = " ".join(words[:max_words]) + " "
    end = max(cut.rfind(mark) for mark in (". ", "! ", "? "))
    return cut[: end + 1] if end > len(cut) // 3 else cut.strip()


def read_tmdb(folder: Path) -> list[Plot]:
    """TMDB 5000: overview, titles in English and the original language, release year."""
    table = pd.read_csv(folder / "movies.csv").dropna(subset=["overview", "release_date"])
    years = pd.to_datetime(table["release_date"], errors="coerce").dt.year
    return [
        Plot(
            frozenset(
                normalise_title(title)
                for name in (row.title, row.original_title)
                for title in (name, split_names(name)[0])
            ),
            year,
            "",
            row.overview,
        )
        for row, year in zip(table.itertuples(), years, strict=True)
        if len(row.overview) > 30
    ]


def read_cmu(folder: Path) -> list[Plot]:
    """CMU movie summaries: title without year, genre words, a long plot."""
    table = pd.read_csv(folder / "movies.csv").dropna(subset=["Plot"])
    return [
        Plot(frozenset({normalise_title(split_names(row.Title)[0])}), np.nan, row.Category, row.Plot)
        for row in table.itertuples()
    ]


def read_wikipedia(folder: Path) -> list[Plot]:
    """Wikipedia introductions; only pages whose opening says that they are about a film of some year.

    The file was collected by title, so `Casablanca` is the city and `Groundhog Day` the holiday.
    """
    pages = json.loads((folder / "movie_summaries.json").read_text(encoding="utf-8"))
    plots = []
    for name, text in pages.items():
        opening = text[:300]
        year = FILM_OF_YEAR.search(opening)
        if year:
            title = normalise_title(split_names(name)[0])
            plots.append(Plot(frozenset({title}), float(year[1] or year[2]), "", text))
    return plots


# --- matching --------------------------------------------------------------------------------------------


def by_title(plots: Iterable[Plot]) -> dict[str, list[Plot]]:
    index = defaultdict(list)
    for plot in plots:
        for title in plot.titles:
            index[title].append(plot)
    return index


def match_by_year(titles: list[str], year: float, index: dict[str, list[Plot]]) -> Plot | None:
    """The plot with one of the titles whose year is nearest, if that is within one year."""
    found = [p for title in titles for p in index.get(title, []) if abs(p.year - year) <= 1]
    return min(found, key=lambda p: abs(p.year - year), default=None)


def match_by_title(
    titles: list[str],
    genres: list[str],
    n_namesakes: int,
    index: dict[str, list[Plot]],
    dated: dict[str, list[Plot]],
    year: float,
) -> Plot | None:
    """A plot from a source without years, when nothing contradicts it.

    Refused: several plots or several MovieLens films of that title, a dated source that knows a film of that
    title from another year (a remake; also when the item's year is unknown), genres that do not fit, or a silent
    or black-and-white film after 1970.
    """
    for title in titles:
        found = index.get(title, [])
        remake = any(not abs(p.year - year) <= 1 for p in dated.get(title, []))  # also true of NaN
        if len(found) != 1 or n_namesakes != 1 or remake or not shares_genre(genres, found[0].genres):
            continue
        if not (year > 1970 and re.search("silent|black-and-white", found[0].genres, re.IGNORECASE)):
            return found[0]
    return None


def shares_genre(genres: list[str], words: str) -> bool:
    """Whether a MovieLens genre occurs among the genre words of the other source.

    Half of all films are dramas, so Drama counts only for a film without another genre.
    """
    synonyms = {"Sci-Fi": "science fiction", "Children's": "family", "Musical": "music", "Film-Noir": "noir"}
    telling = [genre for genre in genres if genre != "Drama"] or genres
    return any(synonyms.get(genre, genre).lower() in words.lower() for genre in telling)


def match_plots(items: pd.DataFrame, plots: dict[str, list[Plot]]) -> pd.DataFrame:
    """For each item the plot text that each source has for it (empty if none).

    Args:
        items: rows with `title` (as MovieLens writes it), `year` and `genres`.
        plots: by source name; sources whose years are all NaN are matched by title alone.

    Returns:
        A table with one column per source, in the order of `items`.
    """
    index = {name: by_title(found) for name, found in plots.items()}
    undated = {name for name, found in plots.items() if all(np.isnan(p.year) for p in found)}
    dated = by_title(p for name in plots if name not in undated for p in plots[name])
    variants = [title_variants(title) for title in items["title"]]
    films = {(titles[0], year) for titles, year in zip(variants, items["year"], strict=True) if titles}
    namesakes = Counter(title for title, _ in films)
    matches = pd.DataFrame(index=items.index)
    for name in plots:
        found = []
        for item, titles in zip(items.itertuples(), variants, strict=True):
            if name in undated:
                alone = namesakes[titles[0]] if titles else 0
                found.append(match_by_title(titles, item.genres, alone, index[name], dated, item.year))
            else:
                found.append(match_by_year(titles, item.year, index[name]))
        if name in undated:
            found = drop_contested(found, variants)
        matches[name] = [clean_plot(plot.text) if plot else "" for plot in found]
    return matches


def drop_contested(found: list[Plot | None], variants: list[list[str]]) -> list[Plot | None]:
    """The same matches without plots that were matched to films of different titles."""
    claims = defaultdict(set)
    for plot, titles in zip(found, variants, strict=True):
        if plot:
            claims[plot].add(titles[0])
    return [plot if plot and len(claims[plot]) == 1 else None for plot in found]


def match_report(domain: Domain, matches: pd.DataFrame) -> pd.DataFrame:
    """Movies and share of all ratings that each source reaches, alone and together."""
    found = {name: matches[name] != "" for name in matches}
    found["any source"] = np.logical_or.reduce(list(found.values()))
    found["any source, >= 20 ratings"] = found["any source"] & (domain.n_ratings >= 20)
    total = domain.n_ratings.sum()
    return pd.DataFrame(
        {
            "movies": {name: int(mask.sum()) for name, mask in found.items()},
            "share of ratings": {
                name: round(float(domain.n_ratings[mask].sum() / total), 3) for name, mask in found.items()
            },
        }
    )


# --- the domain ------------------------------------------------------------------------------------------


def read_movielens_100k(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items (`id`, `title`, `year`, `genres`) and ratings (`user_id`, `id`, `rating`) of MovieLens-100K."""
    items = pd.read_csv(folder / "ml-100k.item", sep="\t", dtype=str, keep_default_na=False)
    items.columns = ["id", "title", "year", "genres"]
    items["id"] = items["id"].astype(int)
    items["year"] = pd.to_numeric(items["year"], errors="coerce")
    items["genres"] = [[g for g in genres.split() if g != "unknown"] for genres in items["genres"]]
    ratings = pd.read_csv(folder / "ml-100k.inter", sep="\t")
    ratings.columns = ["user_id", "id", "rating", "timestamp"]
    return items, ratings


def read_movielens_csv(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items and ratings of MovieLens-25M or MovieLens-latest (`movies.csv`, `ratings.csv`), as above."""
    items = read_columns(folder / "movies.csv", {"movieId": "int32", "title": str, "genres": str})
    split = [split_year(title) for title in items["title"]]
    items["title"], items["year"] = [title for title, _ in split], [year for _, year in split]
    items["genres"] = [[g for g in row.split("|") if "(no genres" not in g] for row in items["genres"]]
    ratings = read_columns(folder / "ratings.csv", {"userId": "int32", "movieId": "int32", "rating": "float32"})
    return items.rename(columns={"movieId": "id"}), ratings.rename(columns={"userId": "user_id", "movieId": "id"})


def read_columns(path: Path, columns: dict[str, type | str]) -> pd.DataFrame:
    """These columns, with their types, of a CSV file.

    Raises:
        CourseError: a column is missing or holds something else.
    """
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(4))
    options = {"usecols": list(columns), "dtype": columns, "keep_default_na": False}
    try:
        try:
            table = pd.read_csv(path, encoding=encoding, **options)
        except UnicodeDecodeError:
            table = pd.read_csv(io.StringIO(read_text(path)), **options)  # as Windows saves it, or a line is damaged
    except ValueError as error:
        remedy = f"give a MovieLens archive with the columns {', '.join(columns)} (25M or latest)"
        raise CourseError(f"could not read {path.name} ({str(error).splitlines()[0]}): {remedy}") from error
    return table[list(columns)]


def read_plots() -> dict[str, list[Plot]]:
    """The three plot sources, by name."""
    readers = {"tmdb": read_tmdb, "cmu": read_cmu, "wikipedia": read_wikipedia}
    return {name: readers[name](sources.fetch(f"plots-{name}")) for name in SOURCES}


def build_domain(items: pd.DataFrame, ratings: pd.DataFrame, matches: pd.DataFrame) -> Domain:
    """Number users and items from 0 and give each item the first plot that a source has."""
    items = items.assign(plot_text="", plot_source="")
    for name in reversed(SOURCES):
        found = matches[name] != ""
        items.loc[found, "plot_text"] = matches.loc[found, name]
        items.loc[found, "plot_source"] = name
    items["title"] = [readable_title(split_names(title)[0]) for title in items["title"]]
    user, users = pd.factorize(ratings["user_id"], sort=True)
    item = pd.Index(items["id"]).get_indexer(ratings["id"])
    numbered = pd.DataFrame({"user": user, "item": item, "rating": ratings["rating"].astype(float)})
    return Domain("movies", items.reset_index(drop=True), len(users), numbered)


def load_movies(original: str | None = None) -> Domain:
    """The movie domain: ratings and, where a source knows the film, its plot.

    Args:
        original: path or URL of an official MovieLens zip (25M, latest) to use in place of MovieLens-100K.

    Raises:
        helpers.base.storage.CourseError: a source cannot be fetched; the message says what to do.
    """
    return load_movies_and_matches(original)[0]


def load_movies_and_matches(original: str | None = None) -> tuple[Domain, pd.DataFrame]:
    """`load_movies`, together with the plots of every source for every item (see `match_plots`)."""
    if original is None:
        items, ratings = read_movielens_100k(sources.fetch("movielens-100k"))
    else:
        items, ratings = read_movielens_csv(sources.fetch_movielens(original))
    matches = match_plots(items, read_plots())
    return build_domain(items, ratings, matches), matches
