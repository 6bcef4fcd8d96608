"""What an agent has to beat: other ways to spend the same number of calls of the environment's language model.

The paper compares EAGLE with its reference policies and with ELM; the other methods here are ours. Each is
`method(world, starts, budget, seed)`, spends exactly `budget` rewrites or generations per start, and works on all
starts side by side. Utilities cost no call: the encoder is not the environment.

A method that follows a policy emits the end of every episode it played, and their mean counts, as in the paper. A
method that searches looks at U and emits the one text that it chose. Searching with the very number that is
reported afterwards is what makes U go up most easily: judge it by the held-out encoder (`evaluation.score`).

The start itself is no result of a search: a search emits it only where every answer was unusable. "Keep the start
unless something better was found" is a step of its own, `only_if_better`, that any method can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from helpers.domains.wording import MOVIES
from helpers.eagle.design import optimal_design
from helpers.eagle.effects import Effects
from helpers.eagle.environment import HORIZON, Choose, Integers, Observation, World, run_episodes, step_texts
from helpers.eagle.policy import uniform
from helpers.eagle.rewriting import Rewriter, Start, ranked_ideas, seed_of, start_items
from helpers.eagle.utility import best_in_reach
from helpers.embedding.profiles import Profile
from helpers.language.generation import Prompt, generate

BUDGET = 3 * HORIZON  # calls per start
BEAM_WIDTH = 2
N_SHOWN = 3  # ideas that a prompt of `opro` or `elm_like` shows

Found = dict[str, float]
"""Texts that a search has met, with their utilities in stars."""


@dataclass(frozen=True)
class Outcome:
    """What a method emitted for each start.

    Attributes:
        texts: one list of candidates per start, all of the same length.
        z: Float[item candidate dim]; utility: Float[item candidate], in stars.
        calls: calls of the language model that each start cost.
    """

    texts: list[list[str]]
    z: Float[np.ndarray, "item candidate dim"]
    utility: Float[np.ndarray, "item candidate"]
    calls: int


BaselineMethod = Callable[[World, Sequence[Start], int, int], Outcome]


def _rounds(world: World, starts: Sequence[Start], budget: int) -> int:
    """Calls per step of an episode, the budget over the horizon.

    Raises:
        ValueError: no start, or a budget that is no positive multiple of the horizon.
    """
    if not len(starts):
        raise ValueError("no starts: give at least one")
    if budget < 1 or budget % world.horizon:
        raise ValueError(f"a budget of {budget} calls: give a positive multiple of the horizon, {world.horizon}")
    return budget // world.horizon


def _outcome(world: World, starts: Sequence[Start], texts: list[list[str]], calls: int) -> Outcome:
    """Encode and score what was emitted."""
    n = len(texts[0])
    z = world.space.encoder([text for candidates in texts for text in candidates])
    utility = world.utility(z, _users(starts, n)).total
    return Outcome(texts, z.reshape(len(texts), n, -1), utility.reshape(len(texts), n), calls)


def _users(starts: Sequence[Start], times: int) -> Int[np.ndarray, " row"]:
    return np.repeat([start.user for start in starts], times)


# Following a policy ------------------------------------------------------------------------------------------------


def follow_each(
    world: World, starts: Sequence[Start], policies: Sequence[Choose], budget: int = BUDGET, seed: int = 0
) -> list[Outcome]:
    """Play `budget` / H episodes from each start with each policy, all in one batch, and emit all their ends.

    An episode depends on the seed, its start and its number, not on what runs beside it: each policy gets what it
    gets alone, in less time than one after the other.

    Raises:
        ValueError: no start, or a budget that is no positive multiple of the horizon.
    """
    n = _rounds(world, starts, budget)
    rows = [start for start in starts for _ in range(n)]
    seeds = [seed_of(seed, "follow", *start, number) for start in starts for number in range(n)]
    parts = [slice(first, first + len(rows)) for first in range(0, len(rows) * len(policies), len(rows))]

    def choose(seen: Observation, generators: Sequence[np.random.Generator]) -> Int[np.ndarray, " episode"]:
        own = [Observation(seen.texts[part], seen.z[part], seen.users[part], seen.step) for part in parts]
        return np.concatenate([p(o, generators[part]) for p, o, part in zip(policies, own, parts, strict=True)])

    episodes = run_episodes(world, rows * len(policies), choose, seeds * len(policies))
    shape = (len(policies), len(starts), n)
    ends = np.array(episodes.texts[-1], dtype=object).reshape(shape).tolist()
    z, utility = episodes.z[-1].reshape(*shape, -1), episodes.utility[-1].reshape(shape)
    return [Outcome(*found, budget) for found in zip(ends, z, utility, strict=True)]


def follow(world: World, starts: Sequence[Start], choose: Choose, budget: int = BUDGET, seed: int = 0) -> Outcome:
    """`follow_each` with one policy."""
    return follow_each(world, starts, [choose], budget, seed)[0]


def pick_best(outcome: Outcome) -> Outcome:
    """The candidate of highest utility of each start: best-of-n, for the same calls."""
    best = outcome.utility.argmax(axis=1)
    rows = np.arange(len(best))
    texts = [[candidates[i]] for candidates, i in zip(outcome.texts, best, strict=True)]
    return Outcome(texts, outcome.z[rows, best][:, None], outcome.utility[rows, best][:, None], outcome.calls)


def random_actions(world: World, starts: Sequence[Start], budget: int = BUDGET, seed: int = 0) -> Outcome:
    """Episodes of uniformly drawn instructions: what editing without a policy does."""
    return follow(world, starts, partial(uniform, n_actions=len(world.actions)), budget, seed)


def best_of_n(world: World, starts: Sequence[Start], budget: int = BUDGET, seed: int = 0) -> Outcome:
    """The best end of the episodes that `random_actions` plays with the same seed."""
    return pick_best(random_actions(world, starts, budget, seed))


# Searching with instructions ---------------------------------------------------------------------------------------


Draw = Callable[[World, Sequence[str], int, int], Int[np.ndarray, " text"]]
"""Picks an instruction for each of some texts of one search: (world, texts, user, seed)."""


def _different(world: World, texts: Sequence[str], user: int, seed: int) -> Int[np.ndarray, " text"]:
    """Random actions, each once before any comes twice."""
    generator, n_actions, count = np.random.default_rng(seed), len(world.actions), len(texts)
    rounds = [generator.permutation(n_actions) for _ in range(-(-count // n_actions))]
    return np.concatenate(rounds)[:count]


def _designed(world: World, texts: Sequence[str], user: int, seed: int, effects: Effects) -> Int[np.ndarray, " text"]:
    """Drawn from the G-optimal design on each text, none twice on one text where the design has as many."""
    generator, actions = np.random.default_rng(seed), np.empty(len(texts), dtype=int)
    for text in dict.fromkeys(texts):
        rows = [row for row, other in enumerate(texts) if other == text]
        q = optimal_design(effects.displacement(world.space.encoder([text])[0], user)).weights
        again = bool(np.count_nonzero(q) < len(rows))
        actions[rows] = generator.choice(len(q), len(rows), replace=again, p=q)
    return actions


def greedy(world: World, starts: Sequence[Start], budget: int = BUDGET, seed: int = 0) -> Outcome:
    """One step only: `budget` different random instructions on the start, the best rewrite is kept."""
    _rounds(world, starts, budget)
    return _beam_search(world, starts, depth=1, rewrites=budget, width=1, seed=seed)


def tree(
    world: World,
    starts: Sequence[Start],
    budget: int = BUDGET,
    seed: int = 0,
    width: int = BEAM_WIDTH,
    effects: Effects | None = None,
    leaves: bool = False,
) -> Outcome:
    """Beam search to depth H with `budget` / H rewrites a depth; the best text is kept.

    The variant of the paper's Amazon experiments. Rewrites go to the texts of the beam in turn, the best one first.

    Args:
        effects: draw the instructions on each text from the G-optimal design over what they are expected to do
            there, as the paper does; at random when not given.
        leaves: only the texts of the last depth count, as in the paper; else those of all depths.
    """
    rewrites = _rounds(world, starts, budget)
    draw = _different if effects is None else partial(_designed, effects=effects)
    return _beam_search(world, starts, world.horizon, rewrites, width, seed, draw, leaves)


def _beam_search(
    world: World,
    starts: Sequence[Start],
    depth: int,
    rewrites: int,
    width: int,
    seed: int,
    draw: Draw = _different,
    leaves: bool = False,
) -> Outcome:
    beams: list[list[str]] = [[start.text] for start in starts]
    found: list[Found] = [{} for _ in starts]
    users = _users(starts, rewrites)
    for level in range(depth):
        parents = [[beam[i % len(beam)] for i in range(rewrites)] for beam in beams]
        actions = [
            draw(world, texts, start.user, seed_of(seed, "search", *start, level))
            for start, texts in zip(starts, parents, strict=True)
        ]
        seeds = [seed_of(seed, "search", *start, level, i) for start in starts for i in range(rewrites)]
        texts = step_texts(world, list(chain(*parents)), users, np.concatenate(actions), seeds).texts
        children = _scored(world, texts, users, rewrites)
        beams = [_best(known)[:width] for known in children]
        found = [new if leaves else old | new for old, new in zip(found, children, strict=True)]
    return _outcome(world, starts, _chosen(starts, found), depth * rewrites)


def _scored(world: World, texts: Sequence[str], users: Integers, per_start: int) -> list[Found]:
    """Texts with their utilities, `per_start` rows to each start; equal texts become one."""
    utility = world.utility(world.space.encoder(texts), users).total.tolist()
    rows = range(0, len(texts), per_start)
    return [dict(zip(texts[r : r + per_start], utility[r : r + per_start], strict=True)) for r in rows]


def _best(found: Found) -> list[str]:
    """Texts by falling utility."""
    return sorted(found, key=found.__getitem__, reverse=True)


def _chosen(starts: Sequence[Start], found: list[Found]) -> list[list[str]]:
    """The best text of each search other than the start; the start where there is none."""
    ranked = ([text for text in _best(known) if text != start.text] for start, known in zip(starts, found, strict=True))
    return [[(texts or [start.text])[0]] for start, texts in zip(starts, ranked, strict=True)]


# Searching by asking for better ideas ------------------------------------------------------------------------------

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
    shown = [f"{text}\nScore: {20 * pairs[text]:.0f}" for text in reversed(_best(pairs))]
    return "\n\n".join([f"The viewer: {profile}", *shown, "Write a new movie with a higher score."])


def opro_prompt(profile: Profile, pairs: Found) -> Prompt:
    """The chat that shows scored ideas and asks for a better one, after one worked example."""
    viewer, ideas, better = OPRO_EXAMPLE
    example = (("user", opro_task(viewer, ideas)), ("assistant", better))
    return (("system", OPRO_SYSTEM), *example, ("user", opro_task(profile, pairs)), ("assistant", "Genres:"))


def opro(world: World, starts: Sequence[Start], budget: int = BUDGET, seed: int = 0, shown: int = N_SHOWN) -> Outcome:
    """Show the best ideas so far with their scores and ask for a better one, in H rounds; the best is kept.

    After OPRO (Yang et al. 2024, "Large language models as optimizers"), at our number of calls and with a model
    far smaller than theirs. The first round shows the start alone; an unusable answer costs its call.
    """
    refuse_other_than_movies(world.rewrite, "opro")
    per_round = _rounds(world, starts, budget)
    found = _scored(world, [start.text for start in starts], _users(starts, 1), 1)
    for number in range(world.horizon):
        best = [{text: known[text] for text in _best(known)[:shown]} for known in found]
        prompts = [opro_prompt(world.profile(s.user), pairs) for s, pairs in zip(starts, best, strict=True)]
        ideas = ideas_written(world.rewrite, starts, prompts, per_round, seed_of(seed, "opro", number))
        new = _scored(world, ideas, _users(starts, per_round), per_round)
        found = [old | some for old, some in zip(found, new, strict=True)]
    return _outcome(world, starts, _chosen(starts, found), budget)


def refuse_other_than_movies(rewriter: Rewriter, method: str) -> None:
    """One line for methods that ask for movies in their own words."""
    if rewriter.wording != MOVIES:
        raise ValueError(f"{method} asks for movies in its own words: use tree or best_of_n in other domains")


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


def optimum(world: World, start: Start) -> Float[np.ndarray, " dim"]:
    """The point of highest utility in reach of a start (`utility.best_in_reach`)."""
    return best_in_reach(world.gap(start.user), world.space.encoder([start.text])[0], world.space.items)


def neighbours(world: World, start: Start, z: Float[np.ndarray, " dim"], count: int = N_SHOWN) -> list[str]:
    """The `count` items nearest to a point, as ideas, nearest first; not the start's own item."""
    usable = world.once("start items", lambda: start_items(world.space.domain))
    return ranked_ideas(world.space, usable, start, lambda at: np.linalg.norm(at - z, axis=1), count)


def elm_like(world: World, starts: Sequence[Start], budget: int = BUDGET, seed: int = 0) -> Outcome:
    """Go to the optimum of U in the embedding space, and let the language model write what could stand there.

    The paper's ELM baseline decodes the optimal embedding with a model that was trained to; ours shows the items
    nearest to it and asks for an idea between them. All `budget` ideas are emitted, because ELM decodes and does
    not search: their mean says what one decoding is worth, and `pick_best` turns it into a search.
    """
    refuse_other_than_movies(world.rewrite, "elm_like")
    _rounds(world, starts, budget)
    prompts = [blend_prompt(neighbours(world, start, optimum(world, start))) for start in starts]
    ideas = ideas_written(world.rewrite, starts, prompts, budget, seed_of(seed, "elm"))
    return _outcome(world, starts, [ideas[i : i + budget] for i in range(0, len(ideas), budget)], budget)


# All of them -------------------------------------------------------------------------------------------------------


def only_if_better(world: World, starts: Sequence[Start], outcome: Outcome) -> Outcome:
    """The same candidates, but the start's own text in place of each that is not better than the start."""
    z = world.space.encoder([start.text for start in starts])
    utility = world.utility(z, _users(starts, 1)).total
    better = outcome.utility > utility[:, None]
    texts = [
        [text if keep else start.text for text, keep in zip(candidates, row, strict=True)]
        for start, candidates, row in zip(starts, outcome.texts, better, strict=True)
    ]
    kept = np.where(better[..., None], outcome.z, z[:, None])
    return Outcome(texts, kept, np.where(better, outcome.utility, utility[:, None]), outcome.calls)


METHODS: dict[str, BaselineMethod] = {
    "random": random_actions,
    "best_of_n": best_of_n,
    "greedy": greedy,
    "tree": tree,
    "opro": opro,
    "elm_like": elm_like,
}
