"""The course's experiment with aimed actions in one place: the movies and users, their numbers, and the encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from helpers.base.settings import SECOND_MODEL, by_profile, model_name
from helpers.domains.clothing import load_clothing
from helpers.domains.domain import Domain
from helpers.domains.movies import load_movies
from helpers.eagle.agent import (
    ROWS_A_START,
    AgentSettings,
    LabelledRows,
    OptionPolicy,
    OptionValue,
    fit_offline,
    label_rows,
    reinforce,
)
from helpers.eagle.aims import KINDS, aims_of, borrowing_aims
from helpers.eagle.emission import Visited
from helpers.eagle.language_agent import LanguageAgent, fit_language
from helpers.eagle.learning import own_copy
from helpers.eagle.methods import followed, followed_each, guided, guided_each, promising, random_aims
from helpers.eagle.rewriting import Rewriter, Start, start_items, start_of
from helpers.eagle.rivals import (
    SearchMethod,
    elm_search,
    neutral,
    neutral_edits,
    opro_search,
    proposed,
    random_edits,
    templates,
    tree_search,
)
from helpers.eagle.steering import Steering, Support, weighted, with_reach
from helpers.embedding.factorization import Factorization, fit_als
from helpers.embedding.judges import halves, independent_encoders
from helpers.language.generation import Backend, Sampling, default_memo, local_backend
from helpers.language.models import language_model

AIMED_SAMPLING = Sampling(max_new_tokens=48, temperature=0.2)
FIRST_REACH = np.full((2, 2), 0.3)  # before it is fitted
REACH_TRIES = 4  # aims tried on each training start to fit it
CALLS = 10  # of the language model, for each start and method
STEPS_AT_MOST = 5  # of an episode, as in the paper
SUPPORTS: tuple[Support, ...] = ("uniform", "optimistic", "goptimal")
SEARCHED: Support = "optimistic"  # chosen on training and trial starts
LOW, HIGH = 3.0, 4.0  # predicted stars: the paper contrasts items rated 1-3 with items rated 4-5
CLOTHING_LOW, CLOTHING_HIGH = 3.9, 4.4  # a shop's customers are content: a fifth of the predictions is below


ONE_UPDATE = AgentSettings(iterations=1, episodes=2, group=2, learning_rate=3e-4)  # of a language model


@dataclass(frozen=True)
class ComparisonPlan:
    """Sizes of the comparison: movies to train on (one user each), to try on and to test on (two users each).

    Attributes:
        seeds: of the supervised policies; the first ones are also those of what takes more time to train.
        rewarded: how many agents are trained by rewards, with `settings`, on each support.
        language: how many of them are language models, `taught` on so many states and then by `language_settings`.
    """

    train_items: int
    trial_items: int
    test_items: int
    seeds: tuple[int, ...]
    settings: AgentSettings
    rewarded: int = 2
    language: int = 1
    taught: int = 2
    language_settings: AgentSettings = ONE_UPDATE

    @property
    def label_calls(self) -> int:
        """Calls of the supervised stage: tries for the reach of each kind of aims, and the labelled rows."""
        return self.train_items * (REACH_TRIES * len(KINDS) + ROWS_A_START)


COMPARISON_PLANS = {
    "small": ComparisonPlan(6, 4, 4, (0, 1), AgentSettings(iterations=4, episodes=6, group=2)),
    "full": ComparisonPlan(
        train_items=60,
        trial_items=24,
        test_items=24,
        seeds=tuple(range(8)),
        settings=AgentSettings(iterations=6, episodes=12),
        rewarded=3,
        language=3,
        taught=40,
        language_settings=AgentSettings(iterations=3, episodes=6, learning_rate=3e-4),
    ),
}


CLOTHING_COMPARISON_PLANS = {
    "small": ComparisonPlan(4, 2, 4, (0,), AgentSettings(iterations=4, episodes=6, group=2)),
    "full": ComparisonPlan(24, 12, 24, tuple(range(8)), AgentSettings(iterations=6, episodes=12)),
}


class StartParts(NamedTuple):
    """Starts of different movies and different users: to train on, to try and choose on, and to report on."""

    train: list[Start]
    trial: list[Start]
    test: list[Start]


def users_by_liking(
    model: Factorization, users: Int[np.ndarray, " user"], item: int, low: float = LOW, high: float = HIGH
) -> list[Int[np.ndarray, " some"]]:
    """Users who are predicted to give an item at most `low` stars, and users who give it at least `high`."""
    stars = model.user_level[users] + model.user_embeddings[users] @ model.item_embeddings[item]
    return [users[stars <= low], users[stars >= high]]


def comparison_starts(
    domain: Domain,
    model: Factorization,
    n_train: int,
    n_trial: int,
    n_test: int,
    seed: int = 0,
    *,
    low: float = LOW,
    high: float = HIGH,
    again: bool = False,
) -> StartParts:
    """The three parts, drawn at random. Movies that are listed twice are not used.

    Every movie of the trial and the test part has two users, one who is predicted to dislike it and one who is
    predicted to like it (`users_by_liking`); training movies have one user each, of either kind in turn.

    Args:
        again: whether a user may have several starts of one kind, to train on or not: for a domain with few users.
    """
    first = n_trial // 2  # the draw stays as it was when the trial starts were those of a test
    order = iter([*["trial"] * first, *["train"] * n_train, *["trial"] * (n_trial - first), *["test"] * n_test])
    rng = np.random.default_rng(seed)
    users = rng.permutation(domain.n_users)
    others, for_training = users[: domain.n_users // 2], users[domain.n_users // 2 :]
    parts, part = StartParts([], [], []), next(order)
    plots = domain.items["plot_text"]
    listed_twice = set(plots[plots.duplicated(keep=False)])  # its double would stay among what exists and what is known
    for item in rng.permutation(start_items(domain)):
        kinds = users_by_liking(model, for_training if part == "train" else others, item, low, high)
        if min(map(len, kinds)) == 0 or plots[item] in listed_twice:
            continue
        wanted = [kinds[len(parts.train) % 2]] if part == "train" else kinds
        chosen = [rng.choice(kind) for kind in wanted]
        if not again:
            others, for_training = (np.setdiff1d(pool, chosen) for pool in (others, for_training))
        getattr(parts, part).extend(start_of(domain, item, user) for user in chosen)
        if (part := next(order, "")) == "":
            return parts
    raise ValueError(f"too few movies for {n_train} + {n_trial} + {n_test} starts: ask for fewer")


@dataclass(frozen=True)
class Comparison:
    """Task, starts and sizes, and what is learnt from the training starts, each computed once, when first needed."""

    task: Steering
    plan: ComparisonPlan
    train: list[Start]
    trial: list[Start]
    test: list[Start]
    _kept: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def labelled(self) -> LabelledRows:
        """The rows of the supervised stage."""
        return label_rows(self.task, self.train)

    def supervised(self, seed: int) -> OptionPolicy:
        """A new policy as the supervised stage leaves it: each seed has training starts drawn with replacement."""
        if ("supervised", seed) not in self._kept:  # its penalty takes hundreds of fits
            rows, second = self.labelled.resampled(seed), self.plan.settings.second
            self._kept["supervised", seed] = fit_offline(rows, weighted(rows.gain.T, second))
        return copy.deepcopy(self._kept["supervised", seed])

    def agents(
        self, support: Support, on_iteration: Callable[[list[dict[str, float]]], None] | None = None
    ) -> tuple[list[OptionPolicy], list[list[dict[str, float]]]]:
        """The policies of the first seeds after rewards, and their learning curves."""
        if support not in self._kept:
            seeds = self.plan.seeds[: self.plan.rewarded]
            policies = [self.supervised(seed) for seed in seeds]
            values = [OptionValue(policy, seed=seed) for policy, seed in zip(policies, seeds, strict=True)]
            parts = self.task, policies, values, support, self.train, self.plan.settings
            curves = reinforce(*parts, seeds=seeds, on_iteration=on_iteration)
            self._kept[support] = [policy.requires_grad_(False) for policy in policies], curves
        return self._kept[support]

    @cached_property
    def reference_language(self) -> list[LanguageAgent]:
        """Language models of the first seeds, taught on the rows of the supervised stage.

        A state costs them half a second, so there are fewer of them than of the small policies.
        """
        agents = []
        for seed in self.plan.seeds[: self.plan.language]:
            agent = LanguageAgent(self.task, language_model(), temperature=0.2, seed=seed)
            rows = self.labelled.resampled(seed)
            gain = weighted(rows.gain.T, self.plan.settings.second)
            fit_language(agent, rows, gain, most=self.plan.taught, seed=seed)
            agents.append(agent)
        return agents

    @cached_property
    def agent_language(self) -> list[LanguageAgent]:
        """The same after rewards, on the support `SEARCHED`."""
        agents, seeds = [own_copy(agent) for agent in self.reference_language], self.plan.seeds[: self.plan.language]
        values = [OptionValue(self.supervised(seed), seed=seed) for seed in seeds]
        reinforce(self.task, agents, values, SEARCHED, self.train, self.plan.language_settings, seeds=seeds)
        return agents

    @property
    def reach_calls(self) -> int:
        """Calls that fitting the reach has cost: every method with promises needs them."""
        return REACH_TRIES * len(KINDS) * len(self.train)

    def training_calls(self, support: Support | None = None) -> int:
        """Calls that one agent of a support has cost before it is used, or the supervised policy where none is given.

        Fitting the reach, the labelled rows, and the episodes of its training.
        """
        before = self.reach_calls + len(self.labelled.gain)
        if support is None:
            return before
        curves = self.agents(support)[1]
        episodes = [self.plan.settings.episodes * row["calls"] for curve in curves for row in curve]
        return before + round(sum(episodes) / len(curves))

    def visited(self, method: str, calls: int = CALLS, starts: Sequence[Start] | None = None) -> list[Visited]:
        """What a method visits on some starts: one `Visited` for each seed, or one where nothing is trained.

        Args:
            method: one of `METHOD_NAMES`. `supervised` uses the support `SEARCHED`, and so do `reference_language`,
                which is a language model after the supervised stage, and `agent_language`, the same after rewards. A
                search adds Q to stars, so `agent_search` is proposed to by the supervised policies: rewards fit Q up to
                its scale alone.
            starts: the test starts where not given.

        Raises:
            ValueError: no such method.
        """
        task, test, seeds = self.task, self.test if starts is None else starts, self.plan.seeds
        kind, _, support = method.partition("_")
        if method in FIXED_METHODS:
            return [FIXED_METHODS[method](task, test, calls, 0)]
        if method == "supervised":
            return followed_each(task, test, calls, seeds, [self.supervised(seed) for seed in seeds], SEARCHED)
        if method == "promise_search":
            return [guided(task, test, calls, 0, None)]
        if method == "agent_search":
            return guided_each(task, test, calls, 0, [self.supervised(seed) for seed in seeds])
        if support == "language" and kind in ("reference", "agent"):
            agents = self.agent_language if kind == "agent" else self.reference_language
            return followed_each(task, test, calls, seeds[: len(agents)], agents, SEARCHED)
        if support in SUPPORTS and kind == "reference":
            return [followed(task, test, calls, 0, None, support)]
        if support in SUPPORTS and kind == "agent":
            policies = self.agents(support)[0]
            return followed_each(task, test, calls, seeds[: len(policies)], policies, support)
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHOD_NAMES)}")


FIXED_METHODS: dict[str, SearchMethod] = {
    "neutral": neutral,
    "neutral_edits": neutral_edits,
    "random": random_edits,
    "greedy": templates,
    "tree": tree_search,
    "opro": opro_search,
    "elm_like": elm_search,
    "proposed": proposed,
    "random_aims": random_aims,
    "promising": promising,
    "promising_both": partial(promising, both=True),
    "borrowed": partial(promising, kind="borrowed"),
    "borrowed_both": partial(promising, kind="borrowed", both=True),
}
"""Methods that learn nothing from tries; those with promises need the reach (`Comparison.reach_calls`)."""

METHOD_NAMES = (
    *FIXED_METHODS,
    *(f"reference_{support}" for support in (*SUPPORTS, "language")),
    "supervised",
    *(f"agent_{support}" for support in (*SUPPORTS, "language")),
    "promise_search",
    "agent_search",
)
"""All methods, in the order of the tables."""


def load_comparison(backend: Backend | None = None, domain: Domain | None = None, progress: bool = False) -> Comparison:
    """The comparison of the current profile.

    Args:
        backend: the model that writes; never the one that the second encoder reads with.

    Raises:
        ValueError: the second encoder would read with the model that writes.
    """
    return comparison_on(domain or load_movies(), by_profile(**COMPARISON_PLANS), backend, progress)


def load_clothing_comparison(
    backend: Backend | None = None, domain: Domain | None = None, progress: bool = False
) -> Comparison:
    """The comparison on women's clothing, where a user is an age (arguments and errors as for `load_comparison`).

    There are fifty ages, so one may have several starts; training starts share none with the others.
    """
    plan = by_profile(**CLOTHING_COMPARISON_PLANS)
    liking = {"low": CLOTHING_LOW, "high": CLOTHING_HIGH, "again": True}
    return comparison_on(domain or load_clothing(), plan, backend, progress, **liking)


def comparison_on(
    domain: Domain, plan: ComparisonPlan, backend: Backend | None = None, progress: bool = False, **starts
) -> Comparison:
    """The comparison on any domain (`starts` as for `comparison_starts`).

    Raises:
        ValueError: the second encoder would read with the model that writes.
    """
    if backend and SECOND_MODEL in backend.name and model_name() != SECOND_MODEL:
        raise ValueError(
            f"{SECOND_MODEL} is the second encoder's: set STEER_MODEL to it, and the encoder takes another"
        )
    own = halves(domain)[0]
    model = fit_als(*own.triplets, own.n_users, own.n_items)
    parts = comparison_starts(domain, model, plan.train_items, plan.trial_items, plan.test_items, **starts)
    left_out = sorted({start.item for start in parts.trial + parts.test})
    rewriter = Rewriter(
        backend or local_backend(), AIMED_SAMPLING, default_memo(), progress, domain.wording, refuse_copies=True
    )
    aims = aims_of(domain, left_out) + borrowing_aims(domain, left_out)
    task = Steering(independent_encoders(domain, left_out), aims, FIRST_REACH, rewriter, STEPS_AT_MOST)
    return Comparison(with_reach(task, parts.train, REACH_TRIES), plan, *parts)
