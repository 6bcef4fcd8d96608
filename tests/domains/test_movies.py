"""The movie domain: which plots are believed, which are refused, and what the real data look like."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.base import sources
from helpers.base.storage import CourseError
from helpers.domains import movies as mv
from helpers.domains.domain import Domain

TEXT = "A plot of more than thirty characters, which is what it takes."


def plot(title: str, year: float = np.nan, genres: str = "", text: str = TEXT) -> mv.Plot:
    return mv.Plot(frozenset({mv.normalise_title(title)}), year, genres, text)


def film(title: str, year: float = 1995, *genres: str) -> dict:
    return {"title": title, "year": year, "genres": list(genres)}


def match(*films: dict, **plots: list[mv.Plot]) -> pd.DataFrame:
    return mv.match_plots(pd.DataFrame(films), plots)


def matched(*films: dict, **plots: list[mv.Plot]) -> list[bool]:
    """For each film, whether the only source has a plot for it."""
    return (match(*films, **plots).iloc[:, 0] != "").tolist()


# Titles


@pytest.mark.parametrize(
    ("title", "normal"),
    [
        ("The Godfather", "godfather"),
        ("A Bug's Life", "bugs life"),
        ("La Cité des enfants perdus", "cite des enfants perdus"),
        ("Romeo & Juliet", "romeo and juliet"),
        ("  2001: A Space   Odyssey ", "2001 a space odyssey"),
        ("The", "the"),
        ("三人", ""),
    ],
)
def test_normal_titles(title, normal):
    assert mv.normalise_title(title) == normal


@pytest.mark.parametrize(
    ("title", "variants"),
    [
        ("Godfather, The", ["godfather"]),
        (
            "City of Lost Children, The (Cité des enfants perdus, La)",
            ["city of lost children", "cite des enfants perdus"],
        ),
        ("Seven (a.k.a. Se7en)", ["seven", "se7en"]),
        ("Enfer, L'", ["lenfer"]),
        ("Sabrina (Sabrina)", ["sabrina"]),
        ("三人", []),
    ],
)
def test_variants_of_a_title(title, variants):
    assert mv.title_variants(title) == variants


# A title of MovieLens, then: as people say it, year, and the names by which plots are looked for.
TITLES = [
    ("Godfather, The (1972)", "The Godfather", 1972, ["godfather"]),
    ("(500) Days of Summer (2009)", "(500) Days of Summer", 2009, ["500 days of summer"]),
    (
        "What the #$*! Do We (K)now!? (a.k.a. What the Bleep Do We Know!?) (2004)",
        "What the #$*! Do We (K)now!?",
        2004,
        ["what the do we k now", "what the bleep do we know"],
    ),
    (
        "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
        "The City of Lost Children",
        1995,
        ["city of lost children", "cite des enfants perdus"],
    ),
    (
        "Léon: The Professional (a.k.a. The Professional) (Léon) (1994)",
        "Léon: The Professional",
        1994,
        ["leon the professional", "professional", "leon"],
    ),
    ("Star Wars (A.K.A. Star Wars: A New Hope) (1977)", "Star Wars", 1977, ["star wars", "star wars a new hope"]),
    ("AKA Serial Killer (1969)", "AKA Serial Killer", 1969, ["aka serial killer"]),
    ("AKA (2002)", "AKA", 2002, ["aka"]),
    ("(Untitled) (2009)", "(Untitled)", 2009, ["untitled"]),
    ("(T)Raumschiff Surprise - Periode 1 (2004)", "(T)Raumschiff Surprise - Periode 1", 2004, None),
    ("Histoire(s) du cinéma (1988)", "Histoire(s) du cinéma", 1988, ["histoire s du cinema"]),
    ("Why I Did (Not) Eat My Father (2015)", "Why I Did (Not) Eat My Father", 2015, ["why i did not eat my father"]),
    (
        "Birdman: Or (The Unexpected Virtue of Ignorance) (2014)",
        "Birdman: Or (The Unexpected Virtue of Ignorance)",
        2014,
        ["birdman or the unexpected virtue of ignorance"],
    ),
    ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968, ["2001 a space odyssey"]),
    ("1984 (Nineteen Eighty-Four) (1984)", "1984", 1984, ["1984", "nineteen eighty four"]),
    ("Nineteen Eighty-Four (1984) (1984)", "Nineteen Eighty-Four", 1984, ["nineteen eighty four", "1984"]),
    ("Lifeboat (1944) (a.k.a. The Boat)", "Lifeboat", 1944, ["lifeboat", "boat"]),
    ("Big Bang Theory, The (2007-)", "The Big Bang Theory", 2007, ["big bang theory"]),
    ("Death Note: Desu nôto (2006–2007)", "Death Note: Desu nôto", 2006, ["death note desu noto"]),
    ("Diplomatic Immunity (2009– )", "Diplomatic Immunity", 2009, ["diplomatic immunity"]),
    ("Mona (Mona ja palavan rakkauden aika) (1983))", "Mona", 1983, ["mona", "mona ja palavan rakkauden aika"]),
    ("Heat (Hot (very)) (1995) ", "Heat", 1995, ["heat", "hot very"]),
    ("Heat(1995)", "Heat", 1995, ["heat"]),
    ("Enfer, L' (1994)", "L'Enfer", 1994, ["lenfer"]),
    ("Cosmos", "Cosmos", None, ["cosmos"]),
    ("Bicycle, Spoon, Apple (Bicicleta, cullera, poma)", "Bicycle, Spoon, Apple", None, None),
    ("(1984)", "(1984)", None, ["1984"]),
    ("$ (Dollars) (1971)", "$", 1971, ["dollars"]),
    ("", "", None, []),
]


@pytest.mark.parametrize(("written", "said", "year", "variants"), TITLES, ids=[row[0] for row in TITLES])
def test_titles_of_movielens(written, said, year, variants):
    title, found = mv.split_year(written)
    assert (None if np.isnan(found) else found) == year
    assert mv.readable_title(mv.split_names(title)[0]) == said
    assert variants is None or mv.title_variants(title) == variants


def test_a_title_as_people_say_it():
    assert mv.readable_title("Godfather, The") == "The Godfather"
    assert mv.readable_title("Enfer, L'") == "L'Enfer"
    assert mv.readable_title("Me, Myself, Irene") == "Me, Myself, Irene"


# Dated sources


@pytest.mark.parametrize(("year", "found"), [(1993, False), (1994, True), (1995, True), (1996, True), (1997, False)])
def test_years_may_differ_by_one(year, found):
    assert matched(film("Heat", year), tmdb=[plot("Heat", 1995)]) == [found]


def test_the_nearest_year_wins_and_any_variant_of_the_title_will_do():
    near, far = plot("Hamlet", 1996, text="near " + TEXT), plot("Hamlet", 1995, text="far " + TEXT)
    assert match(film("Hamlet", 1996), tmdb=[far, near])["tmdb"][0].startswith("near")
    assert matched(film("Seven (Se7en)", 1995), tmdb=[plot("Se7en", 1995)]) == [True]


def test_a_film_of_unknown_year_gets_no_dated_plot():
    assert matched(film("Heat", np.nan), tmdb=[plot("Heat", 1995)]) == [False]


def test_a_film_listed_twice_gets_the_plot_twice():
    twice = [film("Sliding Doors", 1998, "Romance"), film("Sliding Doors", 1998, "Romance")]
    assert matched(*twice, tmdb=[plot("Sliding Doors", 1998)]) == [True, True]
    assert matched(*twice, cmu=[plot("Sliding Doors", genres="Romance Film")]) == [True, True]


# The source without years


def test_an_undated_plot_is_taken_when_nothing_speaks_against_it():
    assert matched(film("Brazil", 1985, "Sci-Fi"), cmu=[plot("Brazil", genres="Science Fiction")]) == [True]


def test_an_undated_plot_is_refused():
    heat, heat_plot = film("Heat", 1995, "Action"), plot("Heat", genres="Action")
    assert matched(heat, cmu=[heat_plot]) == [True]
    assert matched(heat, cmu=[heat_plot, plot("Heat", genres="Action", text="other")]) == [False]  # two plots
    assert matched(heat, film("Heat", 1986, "Action"), cmu=[heat_plot]) == [False, False]  # two films
    assert matched(heat, cmu=[plot("Heat", genres="Comedy")]) == [False]  # another genre
    assert matched(heat, cmu=[plot("Heat", genres="Action, Silent film")]) == [False]  # too old
    assert matched(film("Heat", 1925, "Action"), cmu=[plot("Heat", genres="Action, Silent film")]) == [True]


@pytest.mark.parametrize(("year", "found"), [(1960, False), (1998, True), (np.nan, False)])
def test_a_remake_is_refused(year, found):
    """A dated source knows Psycho from 1998, so the undated plot may be that of the other one."""
    plots = {"cmu": [plot("Psycho", genres="Horror")], "wikipedia": [plot("Psycho", 1998)]}
    table = match(film("Psycho", year, "Horror"), **plots)
    assert (table["cmu"][0] != "") == found


def test_a_plot_that_two_titles_claim_is_refused():
    claimed = mv.Plot(frozenset({"beauty", "beast"}), np.nan, "Romance", TEXT)
    films = [film("Beauty", 1995, "Romance"), film("Beast", 1990, "Romance"), film("Else", 1995, "Romance")]
    assert matched(*films, cmu=[claimed, plot("Else", genres="Romance")]) == [False, False, True]
    assert matched(films[0], films[2], cmu=[claimed]) == [True, False]


@pytest.mark.parametrize(
    ("genres", "words", "fits"),
    [
        (["Drama"], "Drama, Indie", True),
        (["Drama", "Comedy"], "Drama, Indie", False),  # half of all films are dramas
        (["Drama", "Comedy"], "Comedy-drama", True),
        (["Sci-Fi"], "Science Fiction", True),
        (["Children's"], "Family Film", True),
        (["Film-Noir"], "Neo-noir", True),
        ([], "Drama", False),
        (["Comedy"], "", False),
    ],
)
def test_when_genres_fit(genres, words, fits):
    assert mv.shares_genre(genres, words) == fits


# Readers


def test_a_page_about_a_city_or_a_holiday_is_no_film(tmp_path):
    pages = {
        "Casablanca": "Casablanca is the largest city of Morocco. In 1942 it was captured. A film is named after it.",
        "Groundhog Day": "Groundhog Day is a tradition observed on February 2. It was the subject of a 1993 film.",
        "Fargo (film)": "Fargo is a 1996 black comedy crime thriller film written by Joel and Ethan Coen.",
        "Duel in the Sun": "Duel in the Sun (1946) is a Western film directed by King Vidor.",
        "Late": "Late is a word. " * 30 + "Late is a 1996 film.",
    }
    (tmp_path / "movie_summaries.json").write_text(json.dumps(pages), "utf-8")
    found = {(*p.titles, p.year) for p in mv.read_wikipedia(tmp_path)}
    assert found == {("fargo", 1996.0), ("duel in the sun", 1946.0)}


def test_tmdb_rows_without_a_year_or_an_overview_are_left_out(tmp_path):
    rows = pd.DataFrame(
        {
            "title": ["Amelie", "Short", "Undated", "Empty"],
            "original_title": ["Le Fabuleux Destin d'Amélie Poulain", "Short", "Undated", "Empty"],
            "release_date": ["2001-04-25", "2001-01-01", np.nan, "2001-01-01"],
            "overview": [TEXT, "Too short.", TEXT, np.nan],
        }
    )
    rows.to_csv(tmp_path / "movies.csv", index=False)
    (only,) = mv.read_tmdb(tmp_path)
    assert only.titles == {"amelie", "fabuleux destin damelie poulain"} and only.year == 2001


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Tom &amp; Jerry<br/>run\n\n away .", "Tom & Jerry run away."),
        ("{{Plot|date=May}}He [[sails]] <ref name=a>home</ref>, alone", "He sails home, alone"),
        ("He drives a Ford{{cite book|title of it. He <ref leaves", "He drives a of it. He leaves"),  # never closed
        ("", ""),
    ],
)
def test_clean_plots(text, clean):
    assert mv.clean_plot(text) == clean


def test_long_plots_end_with_a_sentence():
    assert mv.clean_plot("One two three. Four five! Six seven.", max_words=6) == "One two three. Four five!"
    assert mv.clean_plot("One two three. Four five! Six seven.", max_words=5) == "One two three. Four five!"
    assert mv.clean_plot("One two three. Four five! Six seven.", max_words=7) == "One two three. Four five! Six seven."
    assert mv.clean_plot("No. " + "word " * 50, max_words=30) == "No. " + " ".join(["word"] * 29)


# Official MovieLens archives

MOVIES = """movieId,title,genres
10,Toy Story (1995),Adventure|Children|Comedy
20,"Godfather, The (1972) ",Crime|Drama
30,Null,(no genres listed)
40,"Postino, Il (The Postman) (1994)",Comedy
"""
RATINGS = "userId,movieId,rating,timestamp\n7,10,4.0,1\n7,20,0.5,2\n9,10,5.0,3\n"
PLOTS = {
    "tmdb": [plot("Toy Story", 1995, text="Woody meets Buzz."), plot("The Postman", 1994, text="A poet.")],
    "cmu": [plot("Toy Story", genres="Comedy", text="Not this one."), plot("The Godfather", genres="Crime")],
    "wikipedia": [plot("Toy Story", 1995, text="Nor this one.")],
}


def archive(path: Path, movies: str = MOVIES, ratings: str = RATINGS) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ml-tiny/movies.csv", movies)
        file.writestr("ml-tiny/ratings.csv", ratings)
    return str(path)


@pytest.fixture
def tiny_plots(cache, monkeypatch):
    monkeypatch.setattr(mv, "read_plots", lambda: PLOTS)


def test_an_official_archive(tiny_plots, tmp_path):
    domain = mv.load_movies(original=archive(tmp_path / "ml-tiny.zip"))
    assert domain.items["title"].tolist() == ["Toy Story", "The Godfather", "Null", "Il Postino"]
    assert domain.items["year"].tolist()[:2] == [1995, 1972] and np.isnan(domain.items["year"][2])
    assert domain.items["genres"][2] == [] and domain.items["genres"][1] == ["Crime", "Drama"]
    assert domain.items["plot_text"].tolist() == ["Woody meets Buzz.", TEXT, "", "A poet."]
    assert domain.items["plot_source"].tolist() == ["tmdb", "cmu", "", "tmdb"]
    users, items, stars = (column.tolist() for column in domain.triplets)
    assert (users, items, stars) == ([0, 0, 1], [0, 1, 0], [4.0, 0.5, 5.0])
    assert domain.n_users == 2 and domain.n_ratings.tolist() == [2, 1, 0, 0]


def test_columns_are_read_by_name(tiny_plots, tmp_path):
    turned = "genres,extra,title,movieId\nComedy,x,Toy Story (1995),10\nCrime,x,Heat (1995),20\n"
    domain = mv.load_movies(original=archive(tmp_path / "ml-tiny.zip", movies=turned))
    assert domain.items["title"].tolist() == ["Toy Story", "Heat"] and domain.items["genres"][0] == ["Comedy"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"movies": "id,name,genres\n10,Toy Story (1995),Comedy\n"}, r"movies\.csv .*columns movieId, title, genres"),
        ({"ratings": "user,movie,stars\n7,10,4.0\n"}, r"ratings\.csv .*columns userId, movieId, rating"),
        ({"ratings": "userId,movieId,rating\n7,ten,4.0\n"}, r"ratings\.csv .*ten"),
    ],
)
def test_other_columns_are_one_clear_line(tiny_plots, tmp_path, file, words):
    with pytest.raises(CourseError, match=words) as caught:
        mv.load_movies(original=archive(tmp_path / "ml-tiny.zip", **file))
    assert "\n" not in str(caught.value)


def test_a_rating_of_an_unknown_film_is_refused(tiny_plots, tmp_path):
    where = archive(tmp_path / "ml-tiny.zip", ratings=RATINGS + "7,99,4.0,1\n")
    with pytest.raises(ValueError, match="an item that does not exist"):
        mv.load_movies(original=where)


# Domains


def items_of(*plots: str | float) -> pd.DataFrame:
    n = len(plots)
    return pd.DataFrame(
        {
            "title": [f"Film {i}" for i in range(n)],
            "year": [1990.0 + i for i in range(n)],
            "genres": [["War", "Drama"]] + [[]] * (n - 1),
            "plot_text": list(plots),
            "plot_source": ["tmdb" if p else "" for p in plots],
        }
    )


def ratings_of(*rows: tuple[int, int, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


@pytest.mark.parametrize("row", [(2, 0, 3.0), (-1, 0, 3.0), (0, 3, 3.0), (0, -1, 3.0)])
def test_a_domain_refuses_ratings_out_of_range(row):
    with pytest.raises(ValueError, match="does not exist"):
        Domain("tiny", items_of("a", "", "b"), 2, ratings_of((0, 0, 1.0), row))


def test_a_domain_refuses_what_is_missing():
    for stars in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not a finite number"):
            Domain("tiny", items_of("a", ""), 2, ratings_of((0, 0, stars)))
    with pytest.raises(ValueError, match="empty string"):
        Domain("tiny", items_of("a", np.nan), 2, ratings_of((0, 0, 3.0)))


def test_views_of_a_domain():
    items = items_of("First plot.", "", "Third plot.")
    items.loc[2, "year"] = np.nan
    domain = Domain("tiny", items, 2, ratings_of((0, 2, 3.0)))
    assert domain.text_items.tolist() == [0, 2] and domain.n_items == 3
    assert domain.texts("plot") == ["First plot.", "Third plot."]
    assert domain.texts() == ["Genres: War, Drama.\nFirst plot.", "Genres: unknown.\nThird plot."]
    assert domain.texts("title_genres_plot") == [
        "Film 0 (1990). Genres: War, Drama.\nFirst plot.",
        "Film 2. Genres: unknown.\nThird plot.",
    ]
    with pytest.raises(ValueError, match="unknown view 'genre': choose"):
        domain.texts("genre")


# The real data


def plot_of(movies: Domain, title: str, year: int) -> str:
    rows = movies.items[(movies.items["title"] == title) & (movies.items["year"] == year)]
    return rows["plot_text"].iloc[0]


def test_coverage_of_the_real_data(movies):
    assert (movies.n_users, movies.n_items, len(movies.ratings)) == (943, 1682, 100_000)
    assert movies.has_text.sum() == 649
    assert movies.n_ratings[movies.has_text].sum() / movies.n_ratings.sum() >= 0.68


@pytest.mark.parametrize(
    ("title", "year", "word"),
    [
        ("Toy Story", 1995, "Woody"),
        ("Casablanca", 1942, "American expatriate"),
        ("Groundhog Day", 1993, "weatherman"),
        ("Fargo", 1996, "Marge Gunderson"),
        ("Psycho", 1960, "Marion Crane"),
    ],
)
def test_known_films_have_their_plots(movies, title, year, word):
    assert word in plot_of(movies, title, year)


def test_the_city_of_casablanca_is_in_the_file_and_never_in_the_domain(movies):
    folder = sources.fetch("plots-wikipedia")
    pages = json.loads((folder / "movie_summaries.json").read_text("utf-8"))
    assert "city" in pages["Casablanca"][:300]
    assert not [p for p in mv.read_wikipedia(folder) if "casablanca" in p.titles]
    assert not movies.items["plot_text"].str.contains("largest city|economic and business").any()


def test_plots_are_plain_text_of_limited_length(movies):
    plots = movies.items["plot_text"][movies.has_text]
    assert plots.str.split().str.len().between(1, mv.PLOT_WORDS).all()
    assert not plots.str.contains(re.compile(r"\{\{|\}\}|\[\[|\]\]|[<>|\n]|&\w+;")).any()


def test_films_listed_twice_have_equal_plots(movies):
    twins = movies.items[movies.items.duplicated(["title", "year"], keep=False)]
    plots = twins.groupby(["title", "year"])["plot_text"]
    assert len(plots) == 18 and all(len(set(texts)) == 1 for _, texts in plots)
    assert (plots.first() != "").sum() >= 5


def test_the_match_report_adds_up(movies):
    domain, matches = mv.load_movies_and_matches()
    report = mv.match_report(domain, matches)
    assert report.loc["any source", "movies"] == movies.has_text.sum()
    assert report["movies"][:3].sum() >= 649 and report["movies"][:3].max() < 649
