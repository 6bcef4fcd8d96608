"""The bank of actions, what becomes of it for a user, proposals and their filters, and coverage."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.domains.wording import MOVIES
from helpers.eagle import actions as ac
from helpers.eagle.actions import BANK, CATEGORIES, Action, accepted, coverage, instantiate, rejection
from helpers.embedding.profiles import Profile
from helpers.language.prompts import Backend

THEMES = MOVIES.themes
GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
GENERIC = [action for action in BANK if not action.personalised]
PERSONALISED = [action for action in BANK if action.personalised]
SILENT = Profile((), (), ())


@st.composite
def profiles(draw) -> Profile:
    """What `ProfileWriter` can write: up to three likes, two other dislikes, three themes."""
    genres = draw(st.permutations(GENRES))
    n_likes, n_dislikes = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    themes = draw(st.lists(st.sampled_from(THEMES), unique=True, max_size=3))
    return Profile(tuple(genres[:n_likes]), tuple(genres[n_likes : n_likes + n_dislikes]), tuple(themes))


# --- the bank ----------------------------------------------------------------------------------------------


def test_the_bank_has_fifty_of_each_kind_in_all_categories():
    assert len(BANK) == 100 and len(GENERIC) == len(PERSONALISED) == 50
    assert Counter((a.category, a.personalised) for a in BANK) == {(c, p): 10 for c in CATEGORIES for p in (0, 1)}
    assert all(("{" in action.template) == action.personalised for action in BANK)


def test_every_slot_is_used_and_no_other_exists():
    named = Counter(slot for action in BANK for slot in re.findall(r"{(.*?)}", action.template))
    assert set(named) == {"liked", "liked2", "disliked", "theme", "theme2"}
    assert min(named.values()) >= 5


def test_generic_actions_name_every_genre_as_the_catalogue_does(movies):
    assert set(GENRES) == {genre for genres in movies.items["genres"] for genre in genres}
    naming = {genre: [a for a in GENERIC if re.search(rf"\b{genre}\b", a.template)] for genre in GENRES}
    assert [genre for genre, found in naming.items() if not found] == []
    assert len({a for found in naming.values() for a in found}) >= 30


def test_no_action_names_a_real_movie(movies):
    titles = [*movies.items["title"]]
    texts = instantiate(BANK, Profile(("Children's", "Sci-Fi"), ("Film-Noir",), THEMES[-2:]))
    assert {text: rejection(text, titles) for text in texts if rejection(text, titles)} == {}


@settings(max_examples=150, deadline=None)
@given(profile=profiles())
def test_instructions_are_short_distinct_sentences_for_any_user(profile):
    texts = instantiate(BANK, profile)
    assert len(set(texts)) == len(texts) == 100
    for text in texts:
        assert re.fullmatch(r"[A-Z][^{}\n]*[^\s.{}]\.", text), text
        assert len(text.split()) <= 16, text
        assert text.split()[0].lower() in ac.VERBS, text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou\W]|\b(a|an|the|its) (a|an|the|its)\b", text, re.IGNORECASE), (
            text
        )
        assert not re.search(r"(?i)\b(\w+) \1\b|  | [.,]", text), text


def test_themes_stand_where_singular_and_plural_both_fit():
    """After a preposition, or as an object: never before a verb that would have to agree with it."""
    verbs = r"\{theme2?\} (is|are|has|have|was|were|comes?|makes?|[a-z]+s)\b"
    assert [a.template for a in PERSONALISED if re.search(verbs, a.template)] == []
    assert [a.template for a in PERSONALISED if re.search(r"\b(a|an|the|his|her) \{theme", a.template)] == []


# --- profiles ----------------------------------------------------------------------------------------------


def test_slots_are_filled_with_the_strongest_tastes_in_order():
    profile = Profile(("Horror", "War", "Crime"), ("Musical", "Drama"), THEMES[5:8])
    sample = Action("{liked}, {liked2}, {disliked}, {theme}, {theme2}.", "plot", True)
    wanted = f"Horror, War, Musical, {THEMES[5]}, {THEMES[6]}."
    assert instantiate([sample, BANK[0], sample], profile) == [wanted, BANK[0].template, wanted]


@pytest.mark.parametrize(
    ("profile", "values"),
    [
        (SILENT, ["Drama", "Comedy", "Horror", "a family under strain", "a journey far from home"]),
        (Profile(("Drama",), (), ()), ["Drama", "Comedy", "Horror"]),
        (Profile(("Comedy",), ("Drama",), ()), ["Comedy", "Adventure", "Drama"]),
        (Profile((), ("Drama", "Comedy"), ()), ["Adventure", "Romance", "Drama"]),
        (Profile(("Horror", "War", "Western"), (), ()), ["Horror", "War", "Musical"]),
        (
            Profile((), (), ("a journey far from home",)),
            [..., ..., ..., "a journey far from home", "a family under strain"],
        ),
    ],
)
def test_a_silent_profile_gets_neutral_words(profile, values):
    found = list(ac.slots(profile).values())
    assert [f for f, v in zip(found, values, strict=False) if v is not ...] == [v for v in values if v is not ...]


@given(profile=profiles())
def test_likes_dislikes_and_themes_never_coincide(profile):
    slots = ac.slots(profile)
    assert len({slots["liked"], slots["liked2"], slots["disliked"]}) == 3
    assert slots["theme"] != slots["theme2"]
    assert not {slots["liked"], slots["liked2"]} & set(profile.dislikes)
    assert slots["disliked"] not in profile.likes


def test_braces_in_a_generic_action_are_left_alone():
    assert instantiate([Action("Add {this}.", "plot", False)], SILENT) == ["Add {this}."]


# --- macro actions and the ablation ------------------------------------------------------------------------


def test_the_sets_of_the_ablation():
    assert {name: len(ac.action_set(name)) for name in ac.ACTION_SETS} == {
        "default": 100,
        "without_personalised": 50,
        "macro": 100,
        "combined": 200,
    }
    assert ac.action_set("without_personalised") == tuple(GENERIC)
    assert ac.action_set("combined") == BANK + ac.action_set("macro")
    for name in ac.ACTION_SETS:
        texts = instantiate(ac.action_set(name), SILENT)
        assert len(set(texts)) == len(texts) and not any("{" in text for text in texts)
    with pytest.raises(ValueError, match="no action set 'all': choose one of default, without_personalised"):
        ac.action_set("all")


def parts(macro: Action) -> list[Action]:
    return [a for a in BANK if a.template in macro.template]


def test_a_macro_asks_for_one_change_of_each_category():
    joined = ac.action_set("macro")
    for macro in joined:
        assert sorted(a.category for a in parts(macro)) == sorted(CATEGORIES)
        assert len(macro.template) == sum(len(a.template) for a in parts(macro)) + 4
        assert macro.category == ac.MACRO and macro.personalised == any(a.personalised for a in parts(macro))
    assert set(Counter(a for macro in joined for a in parts(macro)).values()) == {5}


def test_macros_are_the_same_for_the_same_seed_only():
    assert ac.action_set("macro") == ac.action_set("macro")
    assert ac.action_set("macro", seed=1) != ac.action_set("macro", seed=0)
    assert ac.action_set("default", seed=1) == BANK


@pytest.mark.parametrize(("n", "size"), [(7, 3), (100, 2), (3, 1), (2, 100), (0, 5)])
def test_macros_of_other_sizes(n, size):
    joined = ac.macros(BANK, n, np.random.default_rng(0), size)
    assert [len(parts(macro)) for macro in joined] == [size] * n


def test_what_is_left_over_when_the_actions_are_dealt_is_no_macro():
    for macro in ac.macros(BANK[:5], 6, np.random.default_rng(0), size=2):
        assert len(parts(macro)) == 2


@pytest.mark.parametrize("size", [0, 101])
def test_a_macro_of_too_many_or_no_actions_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}: join between 1 and 100 actions"):
        ac.macros(BANK, 5, np.random.default_rng(0), size)


def test_unequal_categories_are_dealt_too():
    few = [Action("Add one.", "plot", False), *(Action(f"Cut {i}.", "theme", False) for i in range(4))]
    (macro,) = ac.macros(few, 1, np.random.default_rng(0))
    assert sorted(re.findall(r"\w+ \w+", macro.template)) == ["Add one", "Cut 0", "Cut 1", "Cut 2", "Cut 3"]


# --- proposals ---------------------------------------------------------------------------------------------


class FakeBackend(Backend):
    """Answers from a list, and keeps what it was asked."""

    name = "fake"

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked, self.seeds = answers, [], []

    def generate(self, prompts, sampling, seeds, done) -> None:
        self.asked += prompts
        self.seeds += seeds
        done(list(range(len(prompts))), [self.answers[i % len(self.answers)] for i in range(len(prompts))])


def test_proposals_become_generic_actions_of_their_category():
    backend = FakeBackend('1. "Add a talking dog."', "- Set it in Rome.\n")
    texts = ["Genres: War.\nA soldier waits.", "Genres: Crime.\nA thief runs."]
    proposals = ac.propose(backend, "style", texts, 3)
    assert [a.template for a in proposals] == ["Add a talking dog.", "Set it in Rome.", "Add a talking dog."]
    assert {(a.category, a.personalised) for a in proposals} == {("style", False)}
    assert [texts.index(prompt[-1][1].split("\n\n")[0]) for prompt in backend.asked] == [0, 1, 0]


def test_the_prompt_has_one_example_of_its_category_and_the_profile():
    profile = Profile(("War",), ("Musical",), ("faith and doubt",))
    for category in CATEGORIES:
        backend = FakeBackend("Add it.")
        ac.propose(backend, category, ["Genres: War.\nA soldier waits."], 1, profile=profile)
        (user, example, task) = backend.asked[0]
        assert [user[0], example[0], task[0]] == ["user", "assistant", "user"]
        assert next(a for a in BANK if a.template == example[1]).category == category
        assert ac.AIMS[category] in task[1] and task[1].startswith("Genres: War.\nA soldier waits.")
        assert str(profile) in task[1] and str(profile) not in user[1] and "viewer: Likes" in user[1]
        assert "viewer" not in str(ac.proposal_prompt(category, "Genres: War.\nA soldier waits."))


def test_proposals_have_seeds_of_their_own():
    def seeds(category="plot", seed=0):
        backend = FakeBackend("Add it.")
        ac.propose(backend, category, ["Genres: War.\nA."], 4, seed=seed)
        return backend.seeds

    assert seeds() == seeds() and len(set(seeds())) == 4
    assert not set(seeds()) & set(seeds(seed=1)) and not set(seeds()) & set(seeds("theme"))


@pytest.mark.parametrize(
    ("category", "texts", "n", "words"),
    [
        ("ending", ["a"], 1, "no category 'ending': choose one of plot, character"),
        ("plot", [], 1, "1 proposals for 0 texts"),
        ("plot", ["a"], 0, "0 proposals for 1 texts"),
    ],
)
def test_bad_requests_for_proposals_are_refused(category, texts, n, words):
    with pytest.raises(ValueError, match=words):
        ac.propose(FakeBackend("Add it."), category, texts, n)


def words_in_a_row(n: int) -> str:
    return " ".join(f"word{i}" for i in range(n))


TITLES = ["The Lion King", "Toy Story", "Heat", "True Romance", "Good, The Bad and The Ugly"]


@pytest.mark.parametrize(
    ("reason", "bad", "good"),
    [
        ("empty", " ...", "Add sorrow."),
        ("several lines", "Add a dog.\nAdd a cat.", "Add a dog. Add a cat.\n"),
        ("quotes", 'Let her say "never again" at the end.', "Let the hero's brother return."),
        ("quotes", "Make it so. Genres: Drama.", "Make the genres Drama and War."),
        ("quotes", "Add the viewer: a fan of War.", "Add the viewer's favourite dog."),
        ("quotes", "Make it a Comedy. Cares little for War.", "Make it a Comedy that cares about War."),
        ("placeholder", "Add [name of a city] to the plot.", "Add a city to the plot."),
        ("placeholder", "Make it {liked}.", "Make it (almost) funny."),
        ("too long", f"Add {words_in_a_row(24)}.", f"Add {words_in_a_row(23)}."),
        ("unfinished", "Add a dog that barks at the", "Add a dog (that barks at the moon.)"),
        ("unfinished", "Add a dog?", "Add a dog!"),
        ("not imperative", "The hero should find a dog.", "Let the hero find a dog."),
        ("not imperative", "A retired teacher returns home.", "Introduce a retired teacher."),
        (
            "repeats itself",
            "Add a dog to the story and a cat to the story.",
            "Add a dog to the story and a cat to the end.",
        ),
        ("repeats itself", "Make it very very sad.", "Make it very, and I mean very, sad."),
        ("names a movie", "Make it like The Lion King.", "Make it about a lion who is king."),
        ("names a movie", "Turn it into Toy Story in space.", "Turn it into a toy story in space."),
        ("names a movie", "Write a True Romance.", "Write a true Romance with Heat."),
        ("names a movie", "Make it like The Good, The Bad and The Ugly.", "Make good, bad and ugly people meet."),
    ],
)
def test_each_filter_rejects_and_accepts(reason, bad, good):
    assert rejection(bad, TITLES) == reason
    assert rejection(good, TITLES) is None


def test_without_titles_movies_may_be_named():
    assert rejection("Make it like The Lion King.") is None


def test_titles_end_with_a_word():
    assert rejection("Use Toy Storybooks.", ["Toy Story"]) is None


def test_accepted_drops_duplicates_and_counts_reasons():
    def proposed(*texts):
        return [Action(text, "plot", False) for text in texts]

    copy = BANK[0].template.upper().replace(".", "!")
    kept, reasons = accepted(
        proposed("Add a dog.", copy, "add: a DOG!", "", "A dog.", "Cut the dog.", "See Toy Story.")
    )
    assert [a.template for a in kept] == ["Add a dog.", "Cut the dog."]
    assert reasons == {"duplicate": 2, "empty": 1, "not imperative": 2}
    assert accepted(proposed("Add a dog.", "Make Toy Story."), kept, iter(TITLES))[1] == {
        "duplicate": 1,
        "names a movie": 1,
    }
    assert accepted([], BANK) == ((), Counter())


def test_the_example_of_the_prompt_is_a_duplicate():
    for category in CATEGORIES:
        example = ac.proposal_prompt(category, "Genres: War.\nA soldier waits.")[1][1]
        assert accepted([Action(example, category, False)])[1] == {"duplicate": 1}


@pytest.mark.parametrize("text", ["7 samurai join the fight", "Make it 3. Then stop."])
def test_tidy_keeps_what_is_no_list(text):
    assert ac.tidy(text) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_filters_take_any_text(text):
    kept, reasons = accepted([Action(ac.tidy(text), "plot", False)], BANK, TITLES)
    assert len(kept) + sum(reasons.values()) == 1


# --- coverage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 17])
def test_orthogonal_actions_cover_every_dimension(dim):
    found = coverage(3.0 * np.eye(dim))
    assert found.effective_rank == pytest.approx(dim)
    assert (found.directions, found.moving) == (dim, dim)


def test_collinear_actions_cover_one_dimension_and_two_directions():
    lengths = np.array([1.0, 2.0, 5.0, -1.0, -3.0])
    found = coverage(lengths[:, None] * np.array([0.6, 0.8, 0.0]))
    assert found.effective_rank == pytest.approx(1)
    assert (found.directions, found.moving) == (2, 5)


def test_effective_rank_of_unequal_directions():
    """Eigenvalues 9 and 1: exp of the entropy of (0.9, 0.1)."""
    expected = np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))
    assert coverage(np.diag([3.0, 1.0])).effective_rank == pytest.approx(expected)


@pytest.mark.parametrize(
    ("degrees", "threshold", "directions"), [(30, 0.8, 1), (40, 0.8, 2), (30, 0.9, 2), (40, 0.7, 1)]
)
def test_the_threshold_is_a_cosine(degrees, threshold, directions):
    angle = np.radians(degrees)
    d = np.array([[2.0, 0.0], [np.cos(angle), np.sin(angle)]])
    assert coverage(d, threshold=threshold).directions == directions


def test_directions_are_counted_longest_first_whatever_the_order():
    """The middle one is near both others, which are far apart: it is counted first when it is the longest."""
    fan = np.array([[np.cos(a), np.sin(a)] for a in np.radians([0.0, 30.0, 60.0])])
    middle_longest = fan * np.array([[1.0], [2.0], [1.0]])
    middle_shortest = fan * np.array([[2.0], [1.0], [2.0]])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        assert coverage(middle_longest[order]).directions == 1
        assert coverage(middle_shortest[order]).directions == 2


def test_actions_that_move_nothing_have_no_direction():
    assert coverage(np.zeros((4, 3))) == ac.Coverage(0.0, 0, 0)
    found = coverage(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    assert (found.effective_rank, found.directions, found.moving) == (pytest.approx(1.65, abs=0.01), 2, 2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), dim=st.integers(1, 17), scale=st.floats(0.01, 100))
def test_coverage_knows_no_scale_rotation_or_order(seed, n, dim, scale):
    random = np.random.default_rng(seed)
    d = random.normal(size=(n, dim))
    turn = np.linalg.qr(random.normal(size=(dim, dim)))[0]
    first, second = coverage(d), coverage(scale * random.permutation(d) @ turn)
    assert first.effective_rank == pytest.approx(second.effective_rank)
    assert (first.directions, first.moving) == (second.directions, second.moving)
    assert 1 <= first.effective_rank <= min(n, dim) + 1e-9 and 1 <= first.directions <= n


@pytest.mark.parametrize(
    ("displacements", "words"),
    [
        ([1.0, 2.0], "shape \\(action, dim\\), got \\(2,\\)"),
        (np.zeros((0, 3)), "got \\(0, 3\\)"),
        ([[np.nan, 1.0]], "expected finite displacements"),
    ],
)
def test_bad_displacements_are_refused(displacements, words, unchecked):
    with pytest.raises(ValueError, match=words):
        coverage(displacements)
