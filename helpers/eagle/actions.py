"""Actions of the EAGLE agent: short editing instructions, from a bank of templates or from a language model.

In Tennenholtz et al. 2024 (section 4 and appendix) a large language model writes K = 100 candidate instructions
in five categories, half of them personalised to a user's profile. A model of 135M parameters writes poor ones,
so ours are a bank written by hand; `propose` asks a language model for more, `accepted` filters its answers, and
`coverage` compares in how many directions each source moves a text.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from helpers.eagle.banks import BANK, CATEGORIES, MOVIE_EDITS, Action
from helpers.embedding.profiles import Profile
from helpers.language.generation import Backend, Memo, Sampling, generate
from helpers.language.texts import repetition, words_of

MACRO = "macro"  # category of an action that joins several


def slots(profile: Profile) -> dict[str, str]:
    """The words for each slot: the profile's own, strongest first, then neutral ones.

    A neutral genre is never one that the profile names on the other side.
    """
    likes = first(profile.likes, profile.wording.likes, avoid=profile.dislikes)
    dislikes = first(profile.dislikes, profile.wording.dislikes, avoid=(*profile.likes, *likes))
    themes = first(profile.themes, profile.wording.fallback_themes)
    return {
        "liked": likes[0],
        "liked2": likes[1],
        "disliked": dislikes[0],
        "theme": themes[0],
        "theme2": themes[1],
    }


def first(own: Sequence[str], neutral: Sequence[str], avoid: Sequence[str] = (), k: int = 2) -> list[str]:
    """The first k of a user's own words, filled up with neutral ones that are neither among them nor avoided."""
    return [*own, *(word for word in neutral if word not in own and word not in avoid)][:k]


def instantiate(actions: Sequence[Action], profile: Profile) -> list[str]:
    """The instructions of some actions for one user, in the same order: slots filled from the profile."""
    values = slots(profile)
    return [action.template.format_map(values) if action.personalised else action.template for action in actions]


# --- macro actions and the sets of the ablation ------------------------------------------------------------


def macros(actions: Sequence[Action], n: int, rng: np.random.Generator, size: int = 5) -> tuple[Action, ...]:
    """n macro actions, each of which asks for `size` different actions at once (paper, Table 4).

    The actions are drawn without replacement, so that all occur equally often when n * size is a multiple of their
    number and this one a multiple of `size`, and neighbours are of different categories, so that with `size` = 5 a
    macro of the bank asks for one change of each category.

    Raises:
        ValueError: `size` is not between 1 and the number of actions.
    """
    if not 1 <= size <= len(actions):
        raise ValueError(f"size is {size}: join between 1 and {len(actions)} actions")
    groups: list[list[Action]] = []
    while len(groups) < n:
        mixed = _in_turns(actions, rng)
        groups += [mixed[i : i + size] for i in range(0, len(mixed) - size + 1, size)]
    return tuple(
        Action(" ".join(a.template for a in group), MACRO, any(a.personalised for a in group)) for group in groups[:n]
    )


def _in_turns(actions: Sequence[Action], rng: np.random.Generator) -> list[Action]:
    """The actions in random order, taken from the categories in turn."""
    shuffled = [actions[i] for i in rng.permutation(len(actions))]
    piles = [[a for a in shuffled if a.category == category] for category in dict.fromkeys(a.category for a in actions)]
    return [a for turn in itertools.zip_longest(*piles) for a in turn if a is not None]


ACTION_SETS = ("default", "without_personalised", "macro", "combined")


def action_set(name: str, seed: int = 0) -> tuple[Action, ...]:
    """One of the four action sets of the paper's Table 4.

    `default` is the bank (K = 100), `without_personalised` its generic half (50), `macro` has 100 macro actions of
    five, in which every action of the bank occurs five times, and `combined` joins the bank and the macros (200).
    K differs between sets: a fair comparison gives each the same number of environment calls.

    Raises:
        ValueError: no such set.
    """
    if name not in ACTION_SETS:
        raise ValueError(f"no action set {name!r}: choose one of {', '.join(ACTION_SETS)}")
    if name == "default":
        return BANK
    if name == "without_personalised":
        return tuple(action for action in BANK if not action.personalised)
    joined = macros(BANK, len(BANK), np.random.default_rng(seed))
    return joined if name == "macro" else BANK + joined


# --- instructions that a language model proposes -----------------------------------------------------------

PROPOSAL = Sampling(max_new_tokens=32, temperature=0.7)
MAX_INSTRUCTION_WORDS = 24
AIMS = {
    "plot": "the plot",
    "character": "the characters",
    "style": "the setting and the style",
    "theme": "the theme",
    "audience": "the intended audience",
}
EXAMPLE_TEXT = (
    "Genres: Drama.\nA retired teacher returns to her village and finds that her old school is about to close."
)
EXAMPLE_VIEWER = Profile(("Mystery", "Crime"), ("Western",), ("growing old and looking back",))
# An answer that copies its example is a duplicate of the bank, and `accepted` drops it.
_EXAMPLE = {category: templates[0] for category, templates in MOVIE_EDITS.items()}


def propose(
    backend: Backend,
    category: str,
    texts: Sequence[str],
    n: int,
    *,
    profile: Profile | None = None,
    seed: int = 0,
    memo: Memo | None = None,
) -> list[Action]:
    """n editing instructions as a language model proposes them, one-shot and unfiltered (see `accepted`).

    Args:
        texts: movie ideas to propose for; proposal i is for text i modulo their number.
        profile: the user to please; without one nobody in particular.

    Raises:
        ValueError: no such category, no text, or n below 1.
    """
    if category not in CATEGORIES:
        raise ValueError(f"no category {category!r}: choose one of {', '.join(CATEGORIES)}")
    if not texts or n < 1:
        raise ValueError(f"{n} proposals for {len(texts)} texts: ask for one or more of each")
    prompts = [proposal_prompt(category, texts[i % len(texts)], profile) for i in range(n)]
    seeds = np.random.SeedSequence([seed, CATEGORIES.index(category)]).generate_state(n)
    answers = generate(backend, prompts, PROPOSAL, [int(s) for s in seeds], memo=memo)
    return [Action(tidy(answer), category, False) for answer in answers]


def proposal_prompt(category: str, text: str, profile: Profile | None = None) -> tuple[tuple[str, str], ...]:
    """The chat that asks for one instruction, with one worked example of the same category."""
    ask = f"Write one short instruction to a screenwriter: how should {AIMS[category]} change?"
    example, task = (f"\n\nThe viewer: {viewer}" if profile else "" for viewer in (EXAMPLE_VIEWER, profile))
    return (
        ("user", f"{EXAMPLE_TEXT}{example}\n\n{ask}"),
        ("assistant", _EXAMPLE[category]),
        ("user", f"{text}{task}\n\n{ask}"),
    )


def tidy(answer: str) -> str:
    """The answer without a list's number or bullet and without quotation marks around it."""
    return re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", answer).strip(" \t\n\"'“”‘’")


# Verbs of the bank, and others that an edit may begin with.
_MORE_VERBS = (
    "adapt allow ask bring build cast choose combine create cut describe develop draw emphasise emphasize enhance "
    "establish expand explain expose feature focus force have hide highlight imagine include increase insert "
    "introduce invent join keep kill lead lose lower merge place play portray push put raise reduce reimagine "
    "reset reveal reverse send shift shorten simplify slow split strengthen swap switch take transform trap try "
    "twist use write"
)
VERBS = frozenset(a.template.split()[0].lower() for a in BANK) | frozenset(_MORE_VERBS.split())


def rejection(text: str, titles: Iterable[str] = ()) -> str | None:
    """Why a proposed instruction cannot be used, or None when it can.

    Args:
        titles: real movie titles that it must not name. Titles of one word are not looked for (`Heat` is also
            a word), and a title must be written with its own capitals.

    Returns:
        `empty`, `several lines`, `quotes` (speech, the prompt's words or a text's form), `placeholder`,
        `too long` (over `MAX_INSTRUCTION_WORDS` words), `unfinished` (no full stop), `not imperative`,
        `repeats itself`, `names a movie`, or None.
    """
    words = words_of(text)
    checks = (
        ("empty", not words),
        ("several lines", "\n" in text.strip()),
        (
            "quotes",
            re.search(r"[\"“”]|genres:|instruction|screenwriter|the viewer:|cares little for", text, re.IGNORECASE),
        ),
        ("placeholder", re.search(r"[{}\[\]<>|_]", text)),
        ("too long", len(words) > MAX_INSTRUCTION_WORDS),
        ("unfinished", not re.search(r"[.!]\)?$", text.strip())),
        ("not imperative", not words or words[0] not in VERBS),
        ("repeats itself", repetition(text) > 0 or any(a == b for a, b in itertools.pairwise(words))),
        ("names a movie", any(_names(text, title) for title in titles)),
    )
    return next((reason for reason, found in checks if found), None)


def _names(text: str, title: str) -> bool:
    core = re.sub(r"^(The|An?)\s+", "", title)
    return " " in core and core in text and re.search(rf"(?<!\w){re.escape(core)}(?!\w)", text) is not None


def accepted(
    proposals: Sequence[Action], existing: Sequence[Action] = BANK, titles: Iterable[str] = ()
) -> tuple[tuple[Action, ...], Counter[str]]:
    """The proposals that can be used, and how many were rejected for which reason (`rejection`, `duplicate`).

    A duplicate has the words of an existing action or of an earlier proposal; case and punctuation do not count.
    """
    titles = tuple(titles)
    seen = {_bare(action.template) for action in existing}
    kept: list[Action] = []
    reasons: Counter[str] = Counter()
    for action in proposals:
        reason = rejection(action.template, titles) or ("duplicate" if _bare(action.template) in seen else None)
        if reason:
            reasons[reason] += 1
        else:
            kept.append(action)
            seen.add(_bare(action.template))
    return tuple(kept), reasons


def _bare(text: str) -> str:
    """The words of a text without punctuation, to compare it with others."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


# --- how many directions a set of actions covers -----------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """In how many directions a set of actions moves a text.

    Attributes:
        effective_rank: between 0 (nothing moves) and the dimension of the space.
        directions: number of distinct directions.
        moving: number of actions that move the text at all.
    """

    effective_rank: float
    directions: int
    moving: int


def coverage(displacements: Float[np.ndarray, "action dim"], threshold: float = 0.8) -> Coverage:
    """The coverage of actions' displacements z_a - z_x from one text.

    The effective rank is the exponential of the entropy of the eigenvalues of sum_a d_a d_a^T, normalised to sum 1
    (Roy and Vetterli 2007, who take singular values); long displacements weigh more. Distinct directions are
    counted greedily, longest first: one counts when its cosine with all counted so far is below `threshold`.
    The noise of sampled rewrites counts as direction too, and more actions find more: compare sets of one size.

    Raises:
        ValueError: displacements are not a finite table with one row per action.
    """
    d = np.asarray(displacements, dtype=float)
    if d.ndim != 2 or not d.size or not np.isfinite(d).all():
        raise ValueError(f"expected finite displacements of shape (action, dim), got {d.shape}")
    lengths = np.linalg.norm(d, axis=1)
    moving = lengths > 1e-9 * max(lengths.max(), 1e-9)
    counted = _distinct(d, lengths, moving, threshold)
    return Coverage(effective_rank=_effective_rank(d), directions=len(counted), moving=int(moving.sum()))


def _effective_rank(d: Float[np.ndarray, "action dim"]) -> float:
    eigenvalues = np.linalg.svd(d, compute_uv=False) ** 2
    if eigenvalues.sum() == 0:
        return 0.0
    p = eigenvalues / eigenvalues.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def _distinct(d: np.ndarray, lengths: np.ndarray, moving: np.ndarray, threshold: float) -> list[int]:
    """Rows counted as distinct directions, longest first."""
    counted: list[int] = []
    for i in np.argsort(-lengths, kind="stable"):
        cosines = d[counted] @ d[i] / (lengths[counted] * lengths[i]) if moving[i] else np.ones(1)
        if (cosines < threshold).all():
            counted.append(int(i))
    return counted
