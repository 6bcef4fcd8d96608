"""Prompts that ask for a whole new idea, and not for an edit: after scored ideas (OPRO), or between existing ones.

The searches that use the answers are in `rivals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from helpers.domains.wording import MOVIES
from helpers.eagle.rewriting import Rewriter, Start, seed_of
from helpers.embedding.profiles import Profile
from helpers.language.generation import Prompt, generate

N_SHOWN = 3  # ideas that a prompt shows

Found = dict[str, float]
"""Texts that a search has met, with their utilities in stars."""


OPRO_SYSTEM = (
    "You invent movies for one viewer. You see earlier ideas with scores, worst first. "
    "Answer with a new idea that this viewer will score higher, in the same form."
)


OPRO_EXAMPLE: tuple[Profile, Found, str] = (
    Profile(("Mystery", "Crime"), ("Romance",), ("a stranger in a small town",)),
    {
        "Genres: Romance.\nA painter and a sailor fall in love over one summer.": 2.6,
        "Genres: Drama, Romance.\nA widow lets a room to a stranger who never speaks of his past.": 3.5,
    },
    "Genres: Mystery, Crime.\nA widow lets a room to a stranger, and by morning the town's policeman is gone.",
)


def opro_task(profile: Profile, pairs: Found) -> str:
    """Profile and scored ideas, the best last; 5 stars are 100 points."""
    shown = [f"{text}\nScore: {20 * stars:.0f}" for text, stars in sorted(pairs.items(), key=lambda pair: pair[1])]
    return "\n\n".join([f"The viewer: {profile}", *shown, "Write a new movie with a higher score."])


def opro_prompt(profile: Profile, pairs: Found) -> Prompt:
    """The chat that shows scored ideas and asks for a better one, after one worked example."""
    viewer, ideas, better = OPRO_EXAMPLE
    example = (("user", opro_task(viewer, ideas)), ("assistant", better))
    return (("system", OPRO_SYSTEM), *example, ("user", opro_task(profile, pairs)), ("assistant", "Genres:"))


def refuse_other_than_movies(rewriter: Rewriter, method: str) -> None:
    """One line for methods that ask for movies in their own words."""
    if rewriter.wording != MOVIES:
        raise ValueError(f"{method} asks for movies in its own words: use tree or promise_search in other domains")


def ideas_written(
    rewriter: Rewriter, starts: Sequence[Start], prompts: Sequence[Prompt], times: int, seed: int
) -> list[str]:
    """`times` answers to each start's prompt, as ideas; the start's text stands for an unusable answer."""
    asked = [prompt for prompt in prompts for _ in range(times)]
    seeds = [seed_of(seed, *start, i) for start in starts for i in range(times)]
    answers = generate(
        rewriter.backend, asked, rewriter.sampling, seeds, memo=rewriter.memo, progress=rewriter.progress
    )
    own = [start.text for start in starts for _ in range(times)]
    return [rewriter.read(answer)[0] or text for answer, text in zip(answers, own, strict=True)]


# Going to the optimum in the embedding space -----------------------------------------------------------------------

BLEND_SYSTEM = "You invent movies. You read three ideas and answer with one new movie that lies between them."
BLEND_EXAMPLE = (
    "Genres: Comedy, Drama.\nA pensioner robs the bank that took her house.\n\n"
    "Genres: Adventure.\nTwo brothers cross a desert to find the truck that their father lost.\n\n"
    "Genres: Drama, Romance.\nA driver falls in love with a voice on the radio.",
    "Genres: Comedy, Adventure, Romance.\nA retired truck driver crosses the desert with a stolen bank safe and a "
    "radio host who fell for his voice.",
)


def blend_prompt(ideas: Sequence[str]) -> Prompt:
    """The chat that asks for one new idea out of several existing ones, after one worked example."""
    before, after = BLEND_EXAMPLE
    messages = (("user", before), ("assistant", after), ("user", "\n\n".join(ideas)), ("assistant", "Genres:"))
    return (("system", BLEND_SYSTEM), *messages)
