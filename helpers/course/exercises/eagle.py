"""Exercises of notebooks 03 to 09: the EAGLE agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors

from helpers.course.judge import SEEDS, Exercise, difference, normal_values
from helpers.domains.ideas import ascii_line, catalogue_genres, idea_of
from helpers.eagle.rewriting import MAX_COPIED, MAX_REPETITION, MIN_WORDS
from helpers.eagle.steering import FEATURES
from helpers.embedding.factorization import fit_als, rmse, split_ratings
from helpers.language.texts import repetition, sentence_ends, words_of

EAGLE_EXERCISES: dict[str, Exercise] = {}


# --- 03 ----------------------------------------------------------------------------------------------------


def novelty(z, items, k):
    distances = np.linalg.norm(z[:, None] - items[None], axis=2)
    return np.sort(distances, axis=1)[:, :k].sum(axis=1)


def _gap_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    return normal_values(seed, 4, 5), normal_values(seed, 20, 5), 3


EAGLE_EXERCISES["03.1"] = Exercise(
    "novelty",
    novelty,
    cases=_gap_case,
    wrong=(
        lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, :k].mean(axis=1),
        lambda z, items, k: np.linalg.norm(z[:, None] - items[None], axis=2).sum(axis=1),
        lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, k],
        lambda z, items, k: np.sort(((z[:, None] - items[None]) ** 2).sum(axis=2), axis=1)[:, :k].sum(axis=1),
        lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, 1 : k + 1].sum(1),
    ),
)


def utility(z, items, user, level, novelty_weight, k, own=None):
    itself, _ = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()
    others = items if own is None else np.delete(items, own, axis=0)
    return level + z @ user + novelty_weight * novelty(z, others, k) / itself.sum(axis=1).mean()


def _utility_case(seed: int) -> tuple:
    """Texts near items, of which one is left out in four cases of five: the one that the first text lies on."""
    items = normal_values(seed, 20, 5)
    z = items[seed : seed + 4] + 0.1 * normal_values(seed, 4, 5)
    return z, items, normal_values(seed, 5), 3.5, 0.5, 3, None if seed == 0 else seed


EAGLE_EXERCISES["03.2"] = Exercise(
    "utility",
    utility,
    cases=_utility_case,
    wrong=(
        lambda z, items, user, level, lam, k, own=None: level + z @ user,
        lambda z, items, user, level, lam, k, own=None: level + z @ user + lam * novelty(z, items, k),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, 0, lam, k, own),
        lambda z, items, user, level, lam, k, own=None: level + z @ user - utility(z, items, 0 * user, 0, lam, k, own),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, 1.0, k, own),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, lam, k),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, lam, k, own or 0),
    ),
)


def gains_of_edits(before, after, users, items, weight, k, own=None):
    total = []
    for i, (pair, user) in enumerate(zip(zip(before, after, strict=True), users, strict=True)):
        old, new = utility(np.stack(pair), items, user, 0.0, weight, k, None if own is None else int(own[i]))
        total.append(new - old)
    rating = np.einsum("td,td->t", after - before, users)
    return np.stack([np.array(total), rating, (np.array(total) - rating) / weight])


def _edited_texts(seed: int) -> tuple:
    """Five rewrites that began on top of an item each, item 0 among them; in the first case all items count."""
    items = normal_values(seed, 20, 5)
    own = np.array([0, *np.random.default_rng([33, seed]).choice(np.arange(1, 20), 4, replace=False)])
    before = items[own] + 0.05 * normal_values(seed, 5, 5)
    after = before + 0.3 * normal_values(seed + 50, 5, 5)
    return before, after, normal_values(seed + 70, 5, 5), items, 0.5 + 0.1 * seed, 3, None if seed == 0 else own


def _with_own_left_out_of_all(before, after, users, items, weight, k, own=None):
    """Also takes what is usual from the items that are left."""
    if own is None:
        return gains_of_edits(before, after, users, items, weight, k)
    one = [
        gains_of_edits(before[[i]], after[[i]], users[[i]], np.delete(items, place, axis=0), weight, k)
        for i, place in enumerate(own)
    ]
    return np.concatenate(one, axis=1)


def _with_own_left_out_once(before, after, users, items, weight, k, own=None):
    """Leaves the own movie out for the new text alone."""
    found = gains_of_edits(before, after, users, items, weight, k, own)
    itself, _ = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()
    if own is not None:
        for i, place in enumerate(own):
            others = np.delete(items, place, axis=0)
            extra = novelty(before[[i]], others, k) - novelty(before[[i]], items, k)
            found[[0, 2], i] += np.array([weight, 1]) * extra / itself.sum(axis=1).mean()
    return found


EAGLE_EXERCISES["03.3"] = Exercise(
    "what an edit gains",
    gains_of_edits,
    cases=_edited_texts,
    wrong=(
        lambda b, a, u, items, w, k, own=None: gains_of_edits(b, a, u, items, w, k),
        lambda b, a, u, items, w, k, own=None: gains_of_edits(
            b, a, u, items, w, k, np.zeros(5) if own is None else own
        ),
        lambda b, a, u, items, w, k, own=None: gains_of_edits(a, b, u, items, w, k, own),
        lambda b, a, u, items, w, k, own=None: gains_of_edits(b, a, u, items, w, k, own).T,
        lambda b, a, u, items, w, k, own=None: gains_of_edits(b, a, u, items, w, k, own)[[1, 2, 0]],
        lambda b, a, u, items, w, k, own=None: gains_of_edits(b, a, u, items, 1.0, k, own),
        lambda b, a, u, items, w, k, own=None: gains_of_edits(b, a, u, items, w, k, own) * [[1], [1], [w]],
        _with_own_left_out_of_all,
        _with_own_left_out_once,
    ),
)


def spread_out(values, points, apart, n):
    taken: list[int] = []
    for index in np.argsort(-values):
        distances = np.linalg.norm(points[taken] - points[index], axis=1)
        if len(taken) < n and (distances >= apart).all():
            taken.append(int(index))
    return taken


def _only_from_the_last(values, points, apart, n):
    taken: list[int] = []
    for index in np.argsort(-values):
        if len(taken) < n and (not taken or np.linalg.norm(points[taken[-1]] - points[index]) >= apart):
            taken.append(int(index))
    return taken


EAGLE_EXERCISES["03.4"] = Exercise(
    "spread-out points",
    spread_out,
    cases=lambda seed: (normal_values(seed, 40), normal_values(seed, 40, 2), 1.0, 4),
    wrong=(
        lambda values, points, apart, n: [int(i) for i in np.argsort(-values)[:n]],
        lambda values, points, apart, n: spread_out(-values, points, apart, n),
        lambda values, points, apart, n: spread_out(values, points, apart, len(values)),
        lambda values, points, apart, n: spread_out(values, points, 2 * apart, n),
        _only_from_the_last,
    ),
)


def hesitation(log_probs, tokens, given):
    rows = np.arange(given - 1, len(tokens) - 1)
    return float(np.exp(-log_probs[rows, tokens[given:]].mean()))


def _token_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    logits = normal_values(seed, 9, 6)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return log_probs, np.random.default_rng([3, seed]).integers(0, 6, size=9), 2 + seed % 3


EAGLE_EXERCISES["03.5"] = Exercise(
    "perplexity",
    hesitation,
    cases=_token_case,
    wrong=(
        lambda log_probs, tokens, given: hesitation(log_probs, tokens, 1),
        lambda log_probs, tokens, given: float(np.log(hesitation(log_probs, tokens, given))),
        lambda log_probs, tokens, given: float(1 / hesitation(log_probs, tokens, given)),
        lambda log_probs, tokens, given: float(
            np.exp(-log_probs[np.arange(given, len(tokens)), tokens[given:]].mean())
        ),
        lambda log_probs, tokens, given: float(
            np.exp(-log_probs[np.arange(given - 1, len(tokens) - 1), tokens[given:]].sum())
        ),
    ),
)


def row_agreement(a, b):
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(a, b, strict=True)]))


EAGLE_EXERCISES["03.6"] = Exercise(
    "agreement",
    row_agreement,
    cases=lambda seed: (
        3 * normal_values(seed, 6, 1) + normal_values(seed, 6, 15),
        2 * normal_values(seed, 6, 1) + normal_values(seed, 6, 15) + normal_values(seed, 6, 15, 1)[..., 0],
    ),
    wrong=(
        lambda a, b: float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        lambda a, b: row_agreement(a.T, b.T),
        lambda a, b: row_agreement(a, b) ** 2,
        lambda a, b: float(((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))).mean()),
        lambda a, b: float(np.median([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])),
    ),
)


def above_the_median(asked, favourites, items, users, levels, weight, k):
    itself = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()[0].sum(axis=1)
    existing = levels[:, None] + users @ items.T + weight * itself / itself.mean()
    new = [
        utility(texts, items, user, level, weight, k) for texts, user, level in zip(asked, users, levels, strict=True)
    ]
    chosen = existing[np.arange(len(users)), favourites]
    return np.column_stack([chosen, np.stack(new)]) - np.median(existing, axis=1, keepdims=True)


def _askers(seed: int) -> tuple:
    items, users = normal_values(seed, 20, 5), normal_values(seed + 50, 6, 5)
    favourites = np.random.default_rng([37, seed]).integers(20, size=6)
    return normal_values(seed, 6, 2, 5), favourites, items, users, 3 + normal_values(seed, 6), 0.5 + 0.1 * seed, 3


def _over(middle):
    """A wrong answer: above something else of the (user, movie) utilities of the existing movies."""

    def answer(asked, favourites, items, users, levels, weight, k):
        right = above_the_median(asked, favourites, items, users, levels, weight, k)
        itself = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()[0].sum(axis=1)
        stars = levels[:, None] + users @ items.T
        existing = stars + weight * itself / itself.mean()
        return right + np.median(existing, axis=1, keepdims=True) - middle(existing, stars)

    return answer


def _highest(asked, favourites, items, users, levels, weight, k):
    found = [
        above_the_median(asked, np.full(len(users), item), items, users, levels, weight, k)
        for item in range(len(items))
    ]
    return np.max(found, axis=0)


def _each_item_its_own_neighbour(asked, favourites, items, users, levels, weight, k):
    itself = novelty(items, items, k)
    existing = levels[:, None] + users @ items.T + weight * itself / itself.mean()
    new = [
        level + texts @ user + weight * novelty(texts, items, k) / itself.mean()
        for texts, user, level in zip(asked, users, levels, strict=True)
    ]
    chosen = existing[np.arange(len(users)), favourites]
    return np.column_stack([chosen, np.stack(new)]) - np.median(existing, axis=1, keepdims=True)


EAGLE_EXERCISES["03.7"] = Exercise(
    "above the median movie",
    above_the_median,
    cases=_askers,
    wrong=(
        _over(lambda existing, stars: existing.mean(axis=1, keepdims=True)),
        _over(lambda existing, stars: np.median(existing)),
        _over(lambda existing, stars: np.median(stars, axis=1, keepdims=True)),
        _over(lambda existing, stars: 0),
        _over(lambda existing, stars: existing.max(axis=1, keepdims=True)),
        _highest,
        _each_item_its_own_neighbour,
        lambda *case: above_the_median(*case).T,
        lambda *case: above_the_median(*case)[:, [1, 2, 0]],
        lambda asked, favourites, *case: above_the_median(asked, favourites[::-1], *case),
        lambda asked, favourites, *case: above_the_median(asked[:, ::-1], favourites, *case),
    ),
)


# --- 04 ----------------------------------------------------------------------------------------------------


def chat_of(text, instruction, system, examples, field):
    messages = [("system", system)]
    for before, change, after in examples:
        messages += [("user", f"{before}\n\nInstruction: {change}"), ("assistant", after)]
    return [*messages, ("user", f"{text}\n\nInstruction: {instruction}"), ("assistant", f"{field}:")]


def _chat_case(seed: int) -> tuple:
    examples = [
        (f"Genres: War.\nBefore {n}.", f"Change {n}.", f"Genres: Drama.\nAfter {n}.") for n in range(2 + seed % 2)
    ]
    return f"Genres: Comedy.\nText {seed}.", f"Do {seed}.", "You edit ideas.", examples, "Genres"


EAGLE_EXERCISES["04.1"] = Exercise(
    "the prompt",
    chat_of,
    cases=_chat_case,
    compare=lambda answer, expected: difference([tuple(message) for message in answer], expected),
    wrong=(
        lambda *case: chat_of(*case)[:-1],
        lambda *case: chat_of(*case)[1:],
        lambda *case: [chat_of(*case)[0], *chat_of(*case)[-2:]],
        lambda *case: [*chat_of(*case)[:1], *chat_of(*case)[-2:], *chat_of(*case)[1:-2]],
        lambda *case: [*chat_of(*case)[:-2], ("user", f"Instruction: {case[1]}\n\n{case[0]}"), chat_of(*case)[-1]],
        lambda *case: [*chat_of(*case)[:-1], ("assistant", case[4])],
        lambda *case: [("user" if role == "system" else role, said) for role, said in chat_of(*case)],
    ),
)


def idea_or_problem(answer):
    line, _, rest = answer.strip().partition("\n")
    genres, plot = catalogue_genres(line), ascii_line(rest.strip().partition("\n")[0])
    ends = sentence_ends(plot)
    if not genres:
        return "", "no genre"
    if len(plot.split()) >= MIN_WORDS and not ends:
        return "", "unfinished"
    plot = plot[: ends[-1]] if ends else plot
    if len(plot.split()) < MIN_WORDS:
        return "", "no plot"
    if repetition(plot) > MAX_REPETITION:
        return "", "repeats itself"
    return idea_of(genres, plot), ""


ANSWERS = (
    " Crime, Drama.\nA robber opens a theme park with living dinosaurs. And then\n\nAnything else?",
    " Exciting.\nA robber opens a theme park with living dinosaurs.",
    " Crime.\nA robber. Then he opens a theme park with",
    " Crime.\nA robber opens a theme park with living dinosaurs and then",
    " Crime.\nA park of dinosaurs, a park of dinosaurs, a park of dinosaurs.",
)
"""Of the first an idea can be read; of each of the others one thing is wrong."""


def _but_for(problem):
    """Reads as it should, but knows one problem less: the answer is then an idea."""

    def read(answer):
        idea, found = idea_or_problem(answer)
        return (answer.strip(), "") if found == problem else (idea, found)

    return read


EAGLE_EXERCISES["04.2"] = Exercise(
    "reading an answer",
    idea_or_problem,
    cases=lambda seed: (ANSWERS[seed],),
    wrong=(
        *map(_but_for, ("no genre", "unfinished", "no plot", "repeats itself")),
        lambda answer: (f"Genres:{answer}", ""),
        lambda answer: idea_or_problem(answer.replace(". And then", " and then.")),
        lambda answer: idea_or_problem(answer)[0],
        lambda answer: idea_or_problem(answer)[::-1],
    ),
)


def share_copied(words, source, n):
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    own = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(sequence in known for sequence in own) / len(own) if own else 0.0


def _two_texts(seed: int) -> tuple[list[str], list[str], int]:
    """Two texts of few words, so that they share sequences; the last one is shorter than a sequence."""
    rng = np.random.default_rng([4, seed])
    one, other = ([str(word) for word in rng.choice(list("abcd"), size=size)] for size in (20 + seed, 15))
    return (one[:2] if seed == 4 else one), other, 3


EAGLE_EXERCISES["04.3"] = Exercise(
    "copying",
    share_copied,
    cases=_two_texts,
    wrong=(
        lambda words, source, n: share_copied(source, words, n),
        lambda words, source, n: share_copied(words, source, 1),
        lambda words, source, n: share_copied(words, source, n + 1),
        lambda words, source, n: share_copied(words, source, n) if len(words) >= n else 1.0,
        lambda words, source, n: share_copied(words[:-1], source, n),
        lambda words, source, n: 1 - share_copied(words, source, n),
        lambda words, source, n: float(sum(word in source for word in words) / len(words)),
    ),
)


def rewritten(texts, wishes, shown, ask, rules):
    answers = ask([chat_of(text, wish, **rules) for text, wish in zip(texts, wishes, strict=True)])
    new, problems = [], []
    for old, answer, others in zip(texts, answers, shown, strict=True):
        idea, problem = idea_or_problem(answer)
        copied = (share_copied(_plot_words(idea), _plot_words(other), 3) for other in others)
        if idea and max(copied, default=0) > MAX_COPIED:
            idea, problem = "", "copies"
        new.append(idea or old)
        problems.append(problem)
    return new, problems


def _plot_words(idea):
    return words_of(idea.partition("\n")[2])


class ToyWriter:
    """Answers that hang on every message of a prompt and on its place among those that are asked together."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def ask(self, prompts):
        """One answer for each prompt; half of them can be read."""
        said = ["".join(map("".join, prompt)) for prompt in prompts]
        places = [self.seed + 3 * number + sum(map(ord, text)) for number, text in enumerate(said)]
        return [(*ANSWERS, *4 * ANSWERS[:1])[place % 9] for place in places]


def _asked_rewrites(seed: int) -> tuple:
    """Twelve rewrites; what was shown is nothing, the answer's whole plot or a part of it, or something else."""
    whole = "Genres: Crime.\nOnce more a robber opens a theme park with living dinosaurs."
    a_part = "Genres: Crime.\nHe opens a theme park with dinosaurs that sleep."
    other = "Genres: War.\nTwo friends part."
    shown: tuple[list[str], ...] = [], [other, whole], ["Genres: Crime.\nA robber opens a bank."], [a_part, other]
    rules = dict(zip(("system", "examples", "field"), _chat_case(seed)[2:], strict=True))
    texts = [f"Genres: Comedy.\nA robber opens a theme park number {seed + number}." for number in range(12)]
    wishes, sources = [f"Do {number}." for number in range(12)], [shown[number % 4] for number in range(12)]
    return texts, wishes, sources, ToyWriter(seed).ask, rules


def _rewritten_with(shown=lambda others, old: others, keep=lambda old, problem: old, say=lambda problem: problem):
    """A wrong answer: something else is no source, an unusable answer leaves something else, or is called else."""

    def answer(texts, wishes, given, ask, rules):
        new, problems = rewritten(texts, wishes, [shown(*pair) for pair in zip(given, texts, strict=True)], ask, rules)
        left = [
            keep(old, problem) if problem else text for old, text, problem in zip(texts, new, problems, strict=True)
        ]
        return left, [say(problem) for problem in problems]

    return answer


def _one_at_a_time(texts, wishes, shown, ask, rules):
    single = [
        rewritten([text], [wish], [others], ask, rules) for text, wish, others in zip(texts, wishes, shown, strict=True)
    ]
    return [new[0] for new, _ in single], [problems[0] for _, problems in single]


def _asked_again(texts, wishes, shown, ask, rules):
    """Asks once more for what could not be used."""
    new, problems = rewritten(texts, wishes, shown, ask, rules)
    bad = [place for place, problem in enumerate(problems) if problem]
    some_texts, some_wishes, some_shown = ([rows[place] for place in bad] for rows in (texts, wishes, shown))
    again = rewritten(some_texts, some_wishes, some_shown, ask, rules)
    for place, text, problem in zip(bad, *again, strict=True):
        new[place], problems[place] = text, problem
    return new, problems


EAGLE_EXERCISES["04.4"] = Exercise(
    "one step of the environment",
    rewritten,
    cases=_asked_rewrites,
    wrong=(
        _rewritten_with(shown=lambda others, old: []),
        _rewritten_with(shown=lambda others, old: [*others, old]),
        _rewritten_with(shown=lambda others, old: others[:1]),
        _rewritten_with(shown=lambda others, old: others[-1:]),
        _rewritten_with(keep=lambda old, problem: ""),
        _rewritten_with(keep=lambda old, problem: problem),
        _rewritten_with(say=lambda problem: problem if problem != "copies" else ""),
        _rewritten_with(say=lambda problem: not problem),
        _one_at_a_time,
        _asked_again,
        lambda texts, wishes, shown, ask, rules: rewritten(wishes, texts, shown, ask, rules),
        lambda texts, wishes, shown, ask, rules: rewritten(texts, wishes, shown, ask, rules)[::-1],
        lambda texts, wishes, shown, ask, rules: rewritten(
            texts, wishes, shown, lambda prompts: ask([p[1:] for p in prompts]), rules
        ),
    ),
)


class EditingEpisode:
    """Episodes of editing, with STOP as the last action."""

    def __init__(self, rewrite, utility, n_aims, horizon):
        self.rewrite, self.utility, self.n_aims, self.horizon = rewrite, utility, n_aims, horizon

    def reset(self, text):
        self.text, self.steps, self.ended = text, 0, False
        return text

    def step(self, action):
        if self.ended:
            raise RuntimeError("the episode is over: reset first")
        before = self.text
        if action < self.n_aims:
            self.text = self.rewrite(before, action, self.steps)
            self.steps += 1
        self.ended = action == self.n_aims or self.steps == self.horizon
        return self.text, self.utility(self.text) - self.utility(before), self.ended


def append_letter(text, action, step):
    return f"{text}{'abcd'[action]}{step}"


def letters_worth(text):
    return float(sum(0.1 * (ord(letter) % 7) ** 2 for letter in text))


class CountedRewrites:
    """Asks `append_letter`, and counts how often."""

    calls = 0

    def __call__(self, text, action, step):
        self.calls += 1
        return append_letter(text, action, step)


def _other_episode(answer, expected) -> str | None:
    """What differs when both play: to the end, STOP at once, and STOP after a step."""
    answer.rewrite, expected.rewrite = CountedRewrites(), CountedRewrites()
    for number, actions in enumerate(([0, 1, 2, 3, 1, 2][: expected.horizon], [4], [2, 4])):
        steps = [("reset", env.reset(f"text {number}")) for env in (answer, expected)]
        if steps[0] != steps[1]:
            return f"reset returns {steps[0][1]!r}, expected {steps[1][1]!r}"
        for step, action in enumerate(actions):
            name = "STOP" if action == 4 else f"action {action}"
            if problem := difference(answer.step(action), expected.step(action)):
                return f"{name} in step {step}, (text, reward, ended): {problem}"
        if answer.rewrite.calls != expected.rewrite.calls:
            return f"{answer.rewrite.calls} rewrites, expected {expected.rewrite.calls}"
        if not _refuses(answer):
            return "a step after the end of an episode should raise an error"
    return None


def _refuses(env) -> bool:
    try:
        env.step(0)
    except NotImplementedError:
        raise
    except Exception:
        return True
    return False


def _episode_with(**changed):
    """The environment with some methods changed."""
    return type("Changed", (EditingEpisode,), changed)


def _paid_over_the_start(env, action):
    if env.steps == 0:
        env.first = env.text
    text, _, ended = EditingEpisode.step(env, action)
    return text, env.utility(text) - env.utility(env.first), ended


EAGLE_EXERCISES["04.5"] = Exercise(
    "an environment with STOP",
    EditingEpisode,
    cases=lambda seed: (append_letter, letters_worth, 4, 2 + seed),
    compare=_other_episode,
    wrong=(
        _episode_with(step=lambda env, a: (lambda text, reward, ended: (text, env.utility(text), ended))(
            *EditingEpisode.step(env, a))),
        _episode_with(step=_paid_over_the_start),
        _episode_with(step=lambda env, a: (*EditingEpisode.step(env, a)[:2], a == env.n_aims)),
        _episode_with(step=lambda env, a: (*EditingEpisode.step(env, a)[:2], env.steps == env.horizon)),
        _episode_with(step=lambda env, a: (env.rewrite("", 0, 0), EditingEpisode.step(env, a))[1]),
        _episode_with(step=lambda env, a: (setattr(env, "ended", False), EditingEpisode.step(env, a))[1]),  # type: ignore[func-returns-value]
        _episode_with(reset=lambda env, text: EditingEpisode.reset(env, text).upper()),
        _episode_with(reset=lambda env, text: (EditingEpisode.reset(env, text), setattr(env, "steps", 1))[0]),  # type: ignore[func-returns-value]
    ),
)  # fmt: skip


def reach_of(before, after, targets):
    ways = targets - before
    return float(((after - before) * ways).sum() / (ways * ways).sum())


def _moves_towards(seed: int) -> tuple:
    before, targets = normal_values(seed, 6, 4), 3 * normal_values(seed + 50, 6, 4)
    return before, before + 0.4 * (targets - before) + 0.3 * normal_values(seed + 90, 6, 4), targets


def _ratios(before, after, targets):
    ways = targets - before
    return ((after - before) * ways).sum(axis=1) / (ways * ways).sum(axis=1)


EAGLE_EXERCISES["04.6"] = Exercise(
    "reach",
    reach_of,
    cases=_moves_towards,
    wrong=(
        lambda before, after, targets: float(_ratios(before, after, targets).mean()),
        lambda before, after, targets: _ratios(before, after, targets),
        lambda before, after, targets: float(
            np.linalg.norm(after - before, axis=1).sum() / np.linalg.norm(targets - before, axis=1).sum()
        ),
        lambda before, after, targets: reach_of(0 * before, after, targets),
        lambda before, after, targets: reach_of(before, targets, after),
        lambda before, after, targets: 1 - reach_of(before, after, targets),
    ),
)


def shares_of_variance(values):
    n_starts, n_actions, n_draws = values.shape[:3]
    noise = values.var(axis=2, ddof=1).mean(axis=(0, 1)).sum()
    means = values.mean(axis=2)
    means = means - means.mean(axis=1, keepdims=True)
    common = means.mean(axis=0)
    rest = ((means - common) ** 2).sum() / ((n_starts - 1) * (n_actions - 1))
    main = max(0.0, (common**2).sum() / (n_actions - 1) - rest / n_starts)
    interaction = max(0.0, rest - noise / n_draws)
    total = main + interaction + noise
    return (main + interaction) / total, main / total


def _tried_actions(seed: int) -> tuple[np.ndarray]:
    starts, actions, draws = 5, 6, 2 + seed % 3
    of_start, of_action = 3 * normal_values(seed, starts, 1, 1, 2), normal_values(seed, 1, actions, 1, 2)
    of_pair, of_draw = normal_values(seed, starts, actions, 1, 2), normal_values(seed, starts, actions, draws, 2)
    return (of_start + of_action + of_pair + of_draw,)


def _nothing_taken_out(values):
    means = values.mean(axis=2)
    means = means - means.mean(axis=1, keepdims=True)
    noise = values.var(axis=2, ddof=1).mean(axis=(0, 1)).sum()
    between, main = means.var(axis=1, ddof=1).mean(axis=0).sum(), means.mean(axis=0).var(axis=0, ddof=1).sum()
    return between / (between + noise), main / (between + noise)


def _mean_of_dimensions(values):
    return tuple(np.mean([shares_of_variance(values[..., [i]]) for i in range(values.shape[-1])], axis=0))


EAGLE_EXERCISES["04.7"] = Exercise(
    "signal",
    shares_of_variance,
    cases=_tried_actions,
    wrong=(
        _nothing_taken_out,
        lambda values: shares_of_variance(values)[::-1],
        lambda values: (shares_of_variance(values)[0], shares_of_variance(values)[0]),
        lambda values: shares_of_variance(values.transpose(1, 0, 2, 3)),
        _mean_of_dimensions,
        lambda values: tuple(1 - share for share in shares_of_variance(values)),
        lambda values: shares_of_variance(values)[0],
        lambda values: tuple(float(share**0.5) for share in shares_of_variance(values)),
    ),
)


# --- 05 ----------------------------------------------------------------------------------------------------


def action_leverages(z, q):
    sigma = (q[:, None] * z).T @ z
    return (z @ np.linalg.inv(sigma) * z).sum(axis=1)


def _weighted_actions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine actions in three directions; the last two are never tried, and have a leverage all the same."""
    q = np.exp(normal_values(seed + 50, 9)) * (np.arange(9) < 7)
    return normal_values(seed, 9, 3), q / q.sum()


EAGLE_EXERCISES["05.1"] = Exercise(
    "all leverages at once",
    action_leverages,
    cases=_weighted_actions,
    wrong=(
        lambda z, q: (z @ np.linalg.inv(z.T @ z) * z).sum(axis=1),
        lambda z, q: (z @ ((q[:, None] * z).T @ z) * z).sum(axis=1),
        lambda z, q: z @ np.linalg.inv((q[:, None] * z).T @ z) @ z.T,
        lambda z, q: q * action_leverages(z, q),
        lambda z, q: np.where(q > 0, action_leverages(z, q), 0),
        lambda z, q: np.sqrt(action_leverages(z, q)),
        lambda z, q: action_leverages(z, q).max(),
    ),
)


def weights_and_gap(z, tolerance, max_steps):
    n = z.shape[1]
    q = np.full(len(z), 1 / len(z))
    for _ in range(max_steps):
        values = action_leverages(z, q)
        if values.max() - n <= tolerance * n:
            break
        q = q * values / n
    return q, float(action_leverages(z, q).max() - n)


def _even_steps(z, steps):
    return weights_and_gap(z, -np.inf if steps < 0 else 0.0, steps)


def _by_the_largest(z, tolerance, max_steps):
    q = np.full(len(z), 1 / len(z))
    for _ in range(max_steps):
        values = action_leverages(z, q)
        if values.max() - z.shape[1] <= tolerance * z.shape[1]:
            break
        q = q * values / values.max()
        q = q / q.sum() ** 2
    return q, float(action_leverages(z, q).max() - z.shape[1])


EAGLE_EXERCISES["05.2"] = Exercise(
    "the multiplicative algorithm",
    weights_and_gap,
    cases=lambda seed: (normal_values(seed, 12, 3), 0.01, 5 if seed == 0 else 1000),
    wrong=(
        lambda z, tolerance, steps: (_even_steps(z, steps)[0], weights_and_gap(z, tolerance, steps)[1]),
        lambda z, tolerance, steps: weights_and_gap(z, tolerance / z.shape[1], steps),
        lambda z, tolerance, steps: weights_and_gap(z, tolerance, 10),
        lambda z, tolerance, steps: weights_and_gap(z, tolerance, 10**5),
        lambda z, tolerance, steps: weights_and_gap(z, tolerance, steps)[0],
        lambda z, tolerance, steps: (np.full(len(z), 1 / len(z)), weights_and_gap(z, tolerance, steps)[1]),
        lambda z, tolerance, steps: (weights_and_gap(z, tolerance, steps)[0], 0.0),
        _by_the_largest,
    ),
)


def swapped(z, chosen, score):
    chosen = np.array(chosen)
    improved = True
    while improved:
        improved = False
        for place, old in enumerate(chosen):
            rest = np.delete(chosen, place)
            inverse = np.linalg.inv(z[rest].T @ z[rest] + 1e-6 * np.eye(z.shape[1]))
            scores = score(z @ inverse @ z.T)
            scores[rest] = -np.inf
            best = int(scores.argmax())
            if scores[best] > scores[old] + 1e-6:
                chosen[place], improved = best, True
    return np.sort(chosen)


def _volume(gram):
    return np.log1p(gram.diagonal())


def _certainty(gram):
    own = gram.diagonal()
    return -np.log((own[:, None] - gram**2 / (1 + own)).max(axis=0))


@dataclass
class _Patience:
    """A score that may be asked so often: swaps that go round in circles end with a message, not with a hung cell."""

    score: Callable
    asked: int = 0

    def scores(self, gram):
        self.asked += 1
        if self.asked > 5000:
            raise RuntimeError("5,000 scores, and still swapping: does the next place see the last swap?")
        return self.score(gram)


def _chosen_actions(seed: int) -> tuple:
    """Five of 25 actions in three directions; in the last case three in a plane, and volume counts."""
    k = 3 if seed == 4 else 5
    z, chosen = normal_values(seed, 25, 3), np.random.default_rng([5, seed]).choice(25, k, replace=False)
    if seed == 4:
        z[chosen, 2] = 0
    return z, chosen, _Patience(_volume if seed == 4 else _certainty).scores


def _swaps(z, chosen, score, invert=np.linalg.inv, ridge=1e-6, at_once=True, first=np.array):
    """Wrong answers: without a ridge, with the rest of the round before, or from another order of the places."""
    found, before = first(chosen), np.array([])
    while not np.array_equal(found, before):
        before = found.copy()
        for place in range(len(found)):
            rest = np.delete(found if at_once else before, place)
            scores = score(z @ invert(z[rest].T @ z[rest] + ridge * np.eye(z.shape[1])) @ z.T)
            scores[rest] = -np.inf
            if scores.max() > scores[found[place]] + 1e-6:
                found[place] = scores.argmax()
    return np.sort(found)


def _swapped_once(z, chosen, score):
    found, calls = np.array(chosen), len(chosen)
    for place in range(calls):
        rest = np.delete(found, place)
        scores = score(z @ np.linalg.inv(z[rest].T @ z[rest] + 1e-6 * np.eye(z.shape[1])) @ z.T)
        scores[rest] = -np.inf
        found[place] = int(scores.argmax())
        break
    return np.sort(found)


def _swapped_for_the_same(z, chosen, score):
    rest = np.array(chosen)
    scores = score(z @ np.linalg.inv(z[rest].T @ z[rest] + 1e-6 * np.eye(z.shape[1])) @ z.T)
    return np.sort(np.argsort(-scores)[: len(chosen)])


EAGLE_EXERCISES["05.3"] = Exercise(
    "exchange",
    swapped,
    cases=_chosen_actions,
    wrong=(
        lambda z, chosen, score: np.sort(chosen),
        lambda z, chosen, score: swapped(z, chosen, lambda gram: -score(gram)),
        lambda z, chosen, score: swapped(z, chosen, _volume),
        lambda z, chosen, score: swapped(z, chosen, _certainty),
        lambda z, chosen, score: _swaps(z, chosen, score, ridge=0),
        lambda z, chosen, score: _swaps(z, chosen, score, ridge=0, invert=np.linalg.pinv),
        lambda z, chosen, score: _swaps(z, chosen, score, at_once=False),
        lambda z, chosen, score: _swaps(z, chosen, score, first=np.sort),
        lambda z, chosen, score: swapped(z, chosen, score)[:-1],
        _swapped_once,
        _swapped_for_the_same,
    ),
)


def whitened_ways(ways, n):
    """On the n principal axes of moves, measured from no move at all, with the same spread along each."""
    _, scales, axes = np.linalg.svd(ways, full_matrices=False)
    return ways @ axes[:n].T / scales[:n] * np.sqrt(len(ways))


def ten_of_many(ways, k):
    z = whitened_ways(ways, min(k, ways.shape[1]))
    top = np.argsort(-weights_and_gap(z, 1e-3, 10_000)[0], kind="stable")[:k]
    return swapped(z, swapped(z, top, _volume), _certainty)


def _promised_moves(seed: int) -> tuple[np.ndarray, int]:
    """Moves in six dimensions, askew to the coordinates, that have a direction in common; more or fewer are chosen.

    The k largest weights may be exchanged in any order: on these moves all orders end at the same actions.
    """
    along = (normal_values(seed + 54, 40, 6) + 0.5) * np.array([4.0, 3, 2, 1, 0.5, 0.2])
    return along @ np.linalg.qr(normal_values(seed + 54, 6, 6))[0], 4 + seed


def _whitened_along(axes):
    """A wrong answer: the k largest weights and both exchanges, in other coordinates."""

    def answer(ways, k):
        n = min(k, ways.shape[1])
        z = ways @ axes(np.linalg.svd(ways, full_matrices=False)[2], n)
        z = z / np.sqrt((z**2).mean(axis=0))
        top = np.argsort(-weights_and_gap(z, 1e-3, 10_000)[0])[:k]
        return swapped(z, swapped(z, top, _volume), _certainty)

    return answer


def _exchanged(*scores, first=lambda q, k: np.argsort(-q)[:k]):
    """A wrong answer: other exchanges, or other actions to begin with."""

    def answer(ways, k):
        z = whitened_ways(ways, min(k, ways.shape[1]))
        chosen = first(weights_and_gap(z, 1e-3, 10_000)[0], k)
        for score in scores:
            chosen = swapped(z, chosen, score)
        return chosen

    return answer


EAGLE_EXERCISES["05.4"] = Exercise(
    "a support",
    ten_of_many,
    cases=_promised_moves,
    wrong=(
        lambda ways, k: np.sort(_exchanged()(ways, k)),
        _exchanged(_volume),
        _exchanged(_certainty),
        _exchanged(_certainty, _volume),
        _exchanged(_volume, _certainty, first=lambda q, k: np.arange(k)),
        _exchanged(_volume, _certainty, first=lambda q, k: np.argsort(q)[:k]),
        _whitened_along(lambda axes, n: axes[:, :n]),
        _whitened_along(lambda axes, n: np.eye(len(axes))[:, :n]),
        _whitened_along(lambda axes, n: axes[-n:].T),
        lambda ways, k: ten_of_many(ways - ways.mean(axis=0), k),
        lambda ways, k: ten_of_many(ways, k + 1),
        lambda ways, k: np.sort(np.argsort(-np.linalg.norm(ways, axis=1))[:k]),
        _exchanged(_volume, first=lambda q, k: np.arange(k)),
        lambda ways, k: np.arange(k),
    ),
)


def most_left_first(z, k, noise):
    """Always the action that makes the determinant of the kernel of the chosen ones largest."""
    kernel = z @ z.T + noise * np.mean((z**2).sum(axis=1)) * np.eye(len(z))
    chosen: list[int] = []
    for _ in range(k):
        free = [action for action in range(len(z)) if action not in chosen]
        grown = [np.linalg.slogdet(kernel[np.ix_([*chosen, action], [*chosen, action])])[1] for action in free]
        chosen.append(free[int(np.argmax(grown))])
    return np.sort(chosen)


def _moves_to_explain(seed: int) -> tuple[np.ndarray, int, float]:
    """Moves of different length in three directions; more are chosen than directions, in two cases with much noise."""
    return normal_values(seed, 15, 3) * np.array([3.0, 1.0, 0.4]), 3 + seed, 0.3 if seed % 2 else 1e-3


def _left_with(small):
    """What is left with another c than the right one, from the noise and the chosen or all rows."""

    def left(z, chosen, noise):
        c = small(z, chosen, noise) if len(chosen) else 1.0
        inverse = np.linalg.inv(chosen @ chosen.T + c * np.eye(len(chosen)))
        return _lengths(z, chosen) - (z @ chosen.T @ inverse * (z @ chosen.T)).sum(axis=1)

    return lambda z, k, noise: _greedily(lambda rows, chosen: left(rows, chosen, noise))(z, k, noise)


def _greedily(left):
    """A wrong answer from what is taken for left of each action, given the chosen rows."""

    def answer(z, k, noise):
        chosen: list[int] = []
        for _ in range(k):
            values = left(z, z[chosen])
            values[chosen] = -np.inf
            chosen.append(int(values.argmax()))
        return np.sort(chosen)

    return answer


def _lengths(z, chosen):
    return (z**2).sum(axis=1)


def _far_from_all(z, chosen):
    return np.linalg.norm(z[:, None] - chosen[None], axis=2).min(axis=1) if len(chosen) else _lengths(z, chosen)


def _left_by_the_last(z, chosen):
    last = chosen[-1:] / np.maximum(np.linalg.norm(chosen[-1:], axis=1, keepdims=True), 1e-9)
    return _lengths(z, chosen) - ((z @ last.T) ** 2).sum(axis=1)


def _left_by_one_after_the_other(z, chosen):
    """Takes away what each chosen row explains alone, as if all were at right angles."""
    ways = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    return _lengths(z, chosen) - ((z @ ways.T) ** 2).sum(axis=1)


EAGLE_EXERCISES["05.5"] = Exercise(
    "least explained first",
    most_left_first,
    cases=_moves_to_explain,
    wrong=(
        _greedily(_lengths),
        _greedily(_far_from_all),
        _greedily(_left_by_the_last),
        _greedily(_left_by_one_after_the_other),
        _left_with(lambda z, chosen, noise: noise),
        _left_with(lambda z, chosen, noise: noise * np.mean(z**2)),
        _left_with(lambda z, chosen, noise: noise * np.linalg.norm(z, axis=1).mean()),
        _left_with(lambda z, chosen, noise: noise * (z**2).sum()),
        _left_with(lambda z, chosen, noise: noise * (chosen**2).sum(axis=1).mean()),
        _left_with(lambda z, chosen, noise: 1e-9),
        lambda z, k, noise: most_left_first(z, k, 10.0),
        lambda z, k, noise: most_left_first(z, k, noise)[::-1],
        lambda z, k, noise: most_left_first(z, k + 1, noise),
        lambda z, k, noise: most_left_first(z - z.mean(axis=0), k, noise),
        lambda z, k, noise: np.sort(np.argsort(_lengths(z, z))[:k]),
    ),
)


def effects_error(moves, gains, chosen, penalty):
    x, y = moves[chosen], gains[chosen]
    taste = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    others = np.setdiff1d(np.arange(len(moves)), chosen)
    return float(np.sqrt(np.mean((moves[others] @ taste - gains[others]) ** 2)))


def _moves_and_gains(seed: int) -> tuple:
    moves = normal_values(seed, 20, 4)
    gains = moves @ normal_values(seed, 4) + 0.3 * normal_values(seed, 20)
    return moves, gains, np.random.default_rng([5, seed]).choice(20, 6, replace=False), 0.5


EAGLE_EXERCISES["05.6"] = Exercise(
    "the error of a support",
    effects_error,
    cases=_moves_and_gains,
    wrong=(
        lambda moves, gains, chosen, penalty: effects_error(moves, gains, chosen, 0.0),
        lambda moves, gains, chosen, penalty: effects_error(
            moves, gains, np.setdiff1d(np.arange(len(moves)), chosen), penalty
        ),
        lambda moves, gains, chosen, penalty: effects_error(moves, gains, chosen, penalty) ** 2,
        lambda moves, gains, chosen, penalty: effects_error(moves, gains, np.sort(chosen)[:-1], penalty),
        lambda moves, gains, chosen, penalty: float(np.sqrt(np.mean(gains**2))),
        lambda moves, gains, chosen, penalty: effects_error(moves - moves.mean(axis=0), gains, chosen, penalty),
    ),
)


def drawn_under_themselves(z, subsets):
    left = np.linalg.svd(z[subsets], full_matrices=False)[0]
    sup = subsets.shape[1] * (left**2).sum(axis=2).max(axis=1)
    return float(np.mean(sup <= z.shape[1] * (1 + 1e-6))), sup


def _drawn_fours(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve draws of four of twenty actions, with fewer directions than actions, as many, and more."""
    subsets = np.random.default_rng([57, seed]).random((12, 20)).argsort(axis=1)[:, :4]
    return normal_values(seed, 20, (2, 3, 4, 5, 7)[seed]), subsets


def _sups_of(leverages, bound=lambda z, subsets: z.shape[1]):
    """A wrong answer from the leverages of a draw, or from what is let through."""

    def answer(z, subsets):
        sup = np.array([np.max(leverages(z, z[subset])) for subset in subsets])
        return float(np.mean(sup <= bound(z, subsets) * (1 + 1e-6))), sup

    return answer


def _own_leverages(z, drawn):
    return len(drawn) * (drawn @ np.linalg.pinv(drawn)).diagonal()


EAGLE_EXERCISES["05.7"] = Exercise(
    "the printed test",
    drawn_under_themselves,
    cases=_drawn_fours,
    wrong=(
        _sups_of(_own_leverages, lambda z, subsets: subsets.shape[1]),
        _sups_of(_own_leverages, lambda z, subsets: 1),
        _sups_of(lambda z, drawn: _own_leverages(z, drawn) / len(drawn)),
        _sups_of(lambda z, drawn: _own_leverages(z, drawn).mean()),
        _sups_of(lambda z, drawn: len(drawn) * ((z @ np.linalg.pinv(drawn.T @ drawn)) * z).sum(axis=1)),
        _sups_of(lambda z, drawn: len(z) * (z @ np.linalg.pinv(z)).diagonal()),
        lambda z, subsets: drawn_under_themselves(z, subsets)[::-1],
        lambda z, subsets: drawn_under_themselves(z, subsets)[1],
        lambda z, subsets: (
            drawn_under_themselves(z, subsets)[0] * len(subsets),
            drawn_under_themselves(z, subsets)[1],
        ),
    ),
)


# --- 06 ----------------------------------------------------------------------------------------------------


def promised_parts(z, targets, reach, user, novelty):
    there = z + reach[:, None] * (targets - z)
    left = np.linalg.norm(targets - z, axis=1)
    return np.column_stack([(there - z) @ user, novelty(there) - novelty(z[None]), left])


class FarFrom:
    """Novelty of points in stars: how far away the nearest item is, times a weight."""

    def __init__(self, items, weight):
        self.items, self.weight = items, weight

    def stars(self, points):
        """Of each point."""
        return self.weight * np.linalg.norm(points[:, None] - self.items, axis=2).min(axis=1)


def _known_targets(seed: int) -> tuple:
    novelty = FarFrom(normal_values(seed, 20, 4), 0.5).stars
    reach = np.random.default_rng([61, seed]).uniform(0.1, 0.6, size=7)
    return normal_values(seed, 4), 2 * normal_values(seed, 7, 4), reach, normal_values(seed + 50, 4), novelty


def _promised_at(landing=lambda z, targets, reach: z + reach[:, None] * (targets - z), here=1, way=None):
    """A wrong answer: other landing points, other distances, or gains that what the text has is not taken off."""

    def answer(z, targets, reach, user, novelty):
        there = landing(z, targets, reach)
        left = np.linalg.norm(targets - z if way is None else way(z, targets, there), axis=1)
        return np.column_stack([(there - here * z) @ user, novelty(there) - here * novelty(z[None]), left])

    return answer


EAGLE_EXERCISES["06.1"] = Exercise(
    "what an aim promises",
    promised_parts,
    cases=_known_targets,
    wrong=(
        _promised_at(lambda z, targets, reach: targets),
        _promised_at(lambda z, targets, reach: z + reach.mean() * (targets - z)),
        _promised_at(lambda z, targets, reach: targets + reach[:, None] * (z - targets)),
        _promised_at(lambda z, targets, reach: reach[:, None] * (targets - z)),
        _promised_at(here=0),
        _promised_at(way=lambda z, targets, there: targets - there),
        _promised_at(way=lambda z, targets, there: there - z),
        _promised_at(way=lambda z, targets, there: targets),
        lambda *case: promised_parts(*case)[:, [1, 0, 2]],
        lambda *case: promised_parts(*case).T,
        lambda *case: promised_parts(*case)[:, :2].sum(axis=1),
    ),
)


def choices_with_stop(worth, step, temperature):
    scores = np.append(worth, 0.0 if step else -np.inf) / temperature
    p = np.exp(scores - scores.max())
    return p / p.sum()


def _first_softmaxed(worth, step, temperature):
    p = choices_with_stop(worth, 1, temperature)
    p[-1] *= step > 0
    return p


EAGLE_EXERCISES["06.2"] = Exercise(
    "choices",
    choices_with_stop,
    cases=lambda seed: (0.1 * normal_values(seed, 6), seed % 2, 0.05),
    wrong=(
        lambda worth, step, temperature: choices_with_stop(worth, 1, temperature),
        lambda worth, step, temperature: choices_with_stop(worth, 0, temperature),
        lambda worth, step, temperature: choices_with_stop(worth, step, 1.0),
        lambda worth, step, temperature: choices_with_stop(worth, step, 1 / temperature),
        lambda worth, step, temperature: choices_with_stop(worth, step, temperature)[:-1],
        lambda worth, step, temperature: choices_with_stop(worth - worth.mean(), step, temperature),
        lambda worth, step, temperature: np.roll(choices_with_stop(worth, step, temperature), 1),
        _first_softmaxed,  # STOP is taken away at the end, and the rest no longer sums to 1
    ),
)


def standardised_ridge(x, y, penalty):
    center, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    z = (x - center) / spread
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    return center, spread, weights, y.mean()


def _tried_options(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Features of other sizes, one of them constant, and gains with a mean."""
    x = normal_values(seed, 30, 5) * np.array([1.0, 10.0, 0.1, 1.0, 0.0]) + np.array([3.0, 0.0, 1.0, -2.0, 0.0])
    return x, 0.3 + 0.2 * x[:, 0] - 0.05 * x[:, 1] + 0.1 * normal_values(seed, 30), 10.0**seed


def _with_weights(x, y, penalty, change):
    center, spread, weights, intercept = standardised_ridge(x, y, penalty)
    return center, spread, change(weights, spread), intercept


def _intercept_at_zero(x, y, penalty):
    center, spread, weights, intercept = standardised_ridge(x, y, penalty)
    return center, spread, weights, intercept - center / spread @ weights


EAGLE_EXERCISES["06.3"] = Exercise(
    "ridge regression",
    standardised_ridge,
    cases=_tried_options,
    wrong=(
        lambda x, y, penalty: standardised_ridge(x, y, 0.0 * penalty + 1e-6),
        lambda x, y, penalty: standardised_ridge(x, y, penalty * len(x)),
        lambda x, y, penalty: _with_weights(x, y, penalty, lambda weights, spread: weights / spread),
        lambda x, y, penalty: (*standardised_ridge(x, y, penalty)[:3], 0.0),
        lambda x, y, penalty: (x.mean(axis=0), x.std(axis=0), *standardised_ridge(x, y, penalty)[2:]),
        lambda x, y, penalty: standardised_ridge(x, y, penalty)[2],
        _intercept_at_zero,
    ),
)


def left_out_predictions(x, y, start, penalty):
    predicted = np.zeros(len(y))
    for number in np.unique(start):
        out = start == number
        center, spread, weights, intercept = standardised_ridge(x[~out], y[~out], penalty)
        predicted[out] = intercept + (x[out] - center) / spread @ weights
    return predicted


def _rows_of_starts(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Rows of four starts, not as many of each and not in their order, whose gains differ by start."""
    x, y, _ = _tried_options(seed)
    start = np.random.default_rng([6, seed]).permutation(np.repeat([3, 0, 7, 4], [12, 5, 9, 4]))
    return x, y + 0.5 * normal_values(seed, 8)[start], start, 3.0


def _start_after_start(x, y, start, penalty):
    return left_out_predictions(x, y, start, penalty)[np.argsort(start, kind="stable")]


def _fitted_on_the_left_out(x, y, start, penalty):
    predicted = np.zeros(len(y))
    for number in np.unique(start):
        out = start == number
        center, spread, weights, intercept = standardised_ridge(x[out], y[out], penalty)
        predicted[out] = intercept + (x[out] - center) / spread @ weights
    return predicted


def _standardised_before(x, y, start, penalty):
    center, spread, *_ = standardised_ridge(x, y, penalty)
    predicted = np.zeros(len(y))
    for number in np.unique(start):
        out = start == number
        *_, weights, intercept = standardised_ridge(x[~out], y[~out], penalty)
        predicted[out] = intercept + (x[out] - center) / spread @ weights
    return predicted


EAGLE_EXERCISES["06.4"] = Exercise(
    "predictions for left-out starts",
    left_out_predictions,
    cases=_rows_of_starts,
    wrong=(
        lambda x, y, start, penalty: left_out_predictions(x, y, np.arange(len(y)), penalty),
        lambda x, y, start, penalty: left_out_predictions(x, y, np.arange(len(y)) % 4, penalty),
        lambda x, y, start, penalty: left_out_predictions(x, y, start, 1e-6),
        lambda x, y, start, penalty: left_out_predictions(x, y, start, penalty) - y,
        lambda x, y, start, penalty: float(((left_out_predictions(x, y, start, penalty) - y) ** 2).mean()),
        _start_after_start,
        _fitted_on_the_left_out,
        _standardised_before,
    ),
)


def kl_rows(p, q):
    log_p = np.log(np.where(p > 0, p, 1.0))
    log_q = np.log(np.where(p > 0, q, 1.0))
    return (p * (log_p - log_q)).sum(axis=1)


def _two_policies(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of distributions; the first has zeros, and in one place both have one: STOP in a first step."""
    p, q = np.exp(normal_values(seed, 4, 6)), np.exp(normal_values(seed + 50, 4, 6))
    p[np.arange(4), np.arange(4)] = 0
    p[0, -1] = q[0, -1] = 0
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


EAGLE_EXERCISES["06.5"] = Exercise(
    "Kullback–Leibler divergence",
    kl_rows,
    cases=_two_policies,
    wrong=(
        lambda p, q: np.full(4, kl_rows(p, q).sum()),
        lambda p, q: kl_rows(p, q).sum(),
        lambda p, q: kl_rows(p, q) / p.shape[1],
        lambda p, q: -(p * np.log(np.where(p > 0, q, 1.0))).sum(axis=1),
        lambda p, q: kl_rows(p, q) / np.log(2),
        lambda p, q: kl_rows(q, np.where(p > 0, p, 1e-9)),
        lambda p, q: -kl_rows(p, q),
        lambda p, q: np.full(len(p), np.nan),
    ),
)


def shuffled_within_groups(gain, group, rng):
    changed = gain.copy()
    for number in np.unique(group):
        own = np.flatnonzero(group == number)
        changed[own] = gain[rng.permutation(own)]
    return changed


def _gains_that_name_their_group(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Gains of 100 and a bit in group 1, of 200 and a bit in group 2: rising within a group, the groups mixed."""
    start = np.random.default_rng([6, seed]).permutation(np.repeat([1, 2, 5], [9, 7, 8]))
    return 100.0 * start + np.arange(len(start)), start, np.random.default_rng(seed)


def _not_shuffled_within(answer, expected) -> str | None:
    """Any shuffle is right that leaves each gain in its group."""
    answer = np.asarray(answer, dtype=float)
    if answer.shape != expected.shape:
        return f"shape {answer.shape}, expected {expected.shape}"
    if not np.array_equal(np.sort(answer), np.sort(expected)):
        return "the gains are no longer those that were given, each once"
    if not np.array_equal(answer // 100, expected // 100):
        return "a gain has moved to another group"
    still = [bool((np.diff(answer[answer // 100 == number]) > 0).all()) for number in np.unique(expected // 100)]
    return "the gains of a group still stand in their order" if any(still) else None


EAGLE_EXERCISES["06.6"] = Exercise(
    "shuffled within groups",
    shuffled_within_groups,
    cases=_gains_that_name_their_group,
    compare=_not_shuffled_within,
    wrong=(
        lambda gain, group, rng: gain,
        lambda gain, group, rng: rng.permutation(gain),
        lambda gain, group, rng: gain[np.argsort(group, kind="stable")],
        lambda gain, group, rng: rng.choice(gain, len(gain)),
        lambda gain, group, rng: np.array([gain[group == number].mean() for number in group]),
    ),
)


def two_marks(
    worth,
    gain,
    state,
    step,
    temperature,
    fewest=5,
    of_target=lambda temperature: 0.05,
    stop=lambda step: step,
    nats=kl_rows,
    brings=lambda p, gain: p[:-1] @ gain,
):
    """The marks of a policy; the last five arguments leave room for mistakes."""
    found = []
    for number in np.unique(state):
        own = np.flatnonzero(state == number)
        if len(own) >= fewest:
            which = stop(step[own[0]])
            target = choices_with_stop(gain[own], which, of_target(temperature))
            p = choices_with_stop(worth[own], which, temperature)
            found.append((nats(target[None], p[None])[0], brings(p, gain[own])))
    return tuple(np.mean(found, axis=0))


def _tries_in_states(seed: int) -> tuple:
    """Two to nine tries in each of six states, in any order; half of the states are first ones."""
    rng = np.random.default_rng([67, seed])
    state = rng.permutation(np.repeat(np.arange(6), [5, 9, 2, 7, 4, 6]))
    return 0.1 * normal_values(seed, 33), 0.1 * normal_values(seed + 50, 33), state, state % 2, 0.02 * (seed + 1)


def _marks_of_rows(worth, gain, state, step, temperature):
    """Counts a state as often as it has tries."""
    parts = [state == number for number in np.unique(state) if (state == number).sum() >= 5]
    found = [two_marks(worth[own], gain[own], state[own], step[own], temperature) for own in parts]
    return tuple(np.average(found, axis=0, weights=[own.sum() for own in parts]))


EAGLE_EXERCISES["06.7"] = Exercise(
    "two marks of a policy",
    two_marks,
    cases=_tries_in_states,
    wrong=(
        partial(two_marks, fewest=1),
        partial(two_marks, fewest=6),
        partial(two_marks, of_target=lambda temperature: temperature),
        partial(two_marks, stop=lambda step: 1),
        partial(two_marks, stop=lambda step: 0),
        partial(two_marks, nats=lambda target, p: kl_rows(p, np.maximum(target, 1e-12))),
        partial(two_marks, nats=lambda target, p: -(target * np.log(np.maximum(p, 1e-300))).sum(axis=1)),
        partial(two_marks, brings=lambda p, gain: gain[p[:-1].argmax()]),
        partial(two_marks, brings=lambda p, gain: p[:-1] @ gain / p[:-1].sum()),
        partial(two_marks, brings=lambda p, gain: gain.mean()),
        _marks_of_rows,
        lambda *case: two_marks(*case)[::-1],
        lambda worth, gain, state, step, temperature: two_marks(worth, gain, 0 * state, step, temperature),
    ),
)


# --- 07 ----------------------------------------------------------------------------------------------------


def _torch_values(seed: int, *shape: int):
    """Standard normal numbers in single precision, as in the notebook: a right answer may multiply by its own."""
    return torch.as_tensor(normal_values(seed, *shape), dtype=torch.float32)


def rewards_to_come(rewards):
    return rewards.flip(0).cumsum(0).flip(0)


EAGLE_EXERCISES["07.1"] = Exercise(
    "returns to go",
    rewards_to_come,
    cases=lambda seed: (_torch_values(seed, 5, 3),),
    wrong=(
        lambda rewards: rewards.cumsum(0),
        lambda rewards: rewards.flip(0).cumsum(0),
        lambda rewards: rewards.flip(1).cumsum(1).flip(1),
        lambda rewards: rewards.sum(dim=0),
        lambda rewards: rewards.sum(dim=0).expand_as(rewards),
        lambda rewards: rewards_to_come(rewards) - rewards,
        lambda rewards: rewards,
    ),
)


def generalised_advantages(rewards, values, discount):
    surprise = rewards + torch.cat([values[1:], torch.zeros_like(values[:1])]) - values
    ahead = torch.arange(len(rewards)) - torch.arange(len(rewards))[:, None]  # from row to column
    return (discount ** ahead.clamp(min=0) * (ahead >= 0)).to(surprise.dtype) @ surprise


def _played_steps(seed: int) -> tuple:
    return _torch_values(seed, 5, 3), _torch_values(seed + 50, 5, 3), 0.5 + 0.1 * seed


EAGLE_EXERCISES["07.2"] = Exercise(
    "generalised advantages",
    generalised_advantages,
    cases=_played_steps,
    wrong=(
        lambda r, v, d: generalised_advantages(r, v, 0.0),
        lambda r, v, d: generalised_advantages(r, v, 1.0),
        lambda r, v, d: generalised_advantages(r, torch.zeros_like(v), d),
        lambda r, v, d: generalised_advantages(r.flip(0), v.flip(0), d).flip(0),
        lambda r, v, d: generalised_advantages(r - v, torch.zeros_like(v), d),
        lambda r, v, d: generalised_advantages(r, v, d).flip(0),
        lambda r, v, d: rewards_to_come(r) - v,
    ),
)


def mean_of_the_others(surprise, group):
    groups = surprise.reshape(-1, group)
    return ((groups.sum(dim=1, keepdim=True) - groups) / (group - 1)).reshape(-1)


EAGLE_EXERCISES["07.3"] = Exercise(
    "the others of the same start",
    mean_of_the_others,
    cases=lambda seed: (_torch_values(seed, 3 * (2 + seed % 3)), 2 + seed % 3),
    wrong=(
        lambda surprise, group: surprise.reshape(-1, group).mean(1, keepdim=True).expand(-1, group).reshape(-1),
        lambda surprise, group: mean_of_the_others(surprise, group) * (group - 1) / group,
        lambda surprise, group: mean_of_the_others(surprise, len(surprise)),
        lambda surprise, group: mean_of_the_others(surprise.reshape(group, -1).T.reshape(-1), group),
        lambda surprise, group: mean_of_the_others(surprise, group).reshape(-1, group),
        lambda surprise, group: surprise - mean_of_the_others(surprise, group),
    ),
)


def reinforce_by_terms(log_probs, chosen, advantages, reference, kl_weight, entropy_weight):
    p = log_probs.exp()
    taken = log_probs[torch.arange(len(chosen)), chosen]
    kl = (p * (log_probs - reference)).sum(dim=1)
    entropy = -(p * log_probs).sum(dim=1)
    return (-advantages * taken + kl_weight * kl - entropy_weight * entropy).mean()


def _states_of_episodes(seed: int) -> tuple:
    """Six steps with four options each; the policy is to learn, and the advantages are standardised."""
    log_probs, reference = (torch.log_softmax(_torch_values(seed + shift, 6, 4), dim=1) for shift in (0, 50))
    chosen = torch.as_tensor(np.random.default_rng([7, seed]).integers(4, size=6))
    advantages = _torch_values(seed + 90, 6)
    advantages = (advantages - advantages.mean()) / advantages.std()
    return log_probs.requires_grad_(), chosen, advantages, reference, 0.3, 0.2


def _reverse_kl(log_probs, chosen, advantages, reference, kl_weight, entropy_weight):
    without = reinforce_by_terms(log_probs, chosen, advantages, reference, 0.0, entropy_weight)
    return without + kl_weight * (reference.exp() * (reference - log_probs)).sum(dim=1).mean()


def _kl_of_plain_probabilities(log_probs, chosen, advantages, reference, kl_weight, entropy_weight):
    """The right number, but the probabilities in the KL are kept from the gradient."""
    without = reinforce_by_terms(log_probs, chosen, advantages, reference, 0.0, entropy_weight)
    return without + kl_weight * (log_probs.exp().detach() * (log_probs - reference)).sum(dim=1).mean()


def _gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss: the gradients of the policy (logits of four options) and of the values.

    The leaves are log-probabilities. By logits, answers that normalise them once more have the same gradient.
    """
    leaves, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            waiting += [earlier for earlier, _ in node.next_functions]
    found = torch.autograd.grad(loss, leaves, retain_graph=True) if leaves else []
    slopes = {}
    for leaf, slope in zip(leaves, found, strict=True):
        of_policy = leaf.shape[-1:] == (4,)
        by_logits = slope - leaf.detach().exp() * slope.sum(dim=1, keepdim=True) if of_policy else slope
        slopes["policy" if of_policy else "values"] = by_logits
    return slopes


def _other_loss(answer, expected) -> str | None:
    """What differs in a loss, or in what each network would learn from it."""
    if problem := difference(answer, expected):
        return problem
    found, wanted = _gradients(answer), _gradients(expected)
    if unreached := [name for name in wanted if name not in found]:
        return f"the loss is right, but no gradient reaches the {unreached[0]}"
    problem = difference(found, wanted)
    return f"the loss is right, its gradient is not: {problem}" if problem else None


EAGLE_EXERCISES["07.4"] = Exercise(
    "the REINFORCE loss",
    reinforce_by_terms,
    cases=_states_of_episodes,
    compare=_other_loss,
    wrong=(
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, -a, ref, kl, ent),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, a, ref, -kl, ent),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, a, ref, kl, -ent),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, a, ref, 0.0, ent),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, a, ref, kl, 0.0),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, a, ref, kl, ent) * len(lp),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, c, torch.ones_like(a), ref, kl, ent),
        lambda lp, c, a, ref, kl, ent: reinforce_by_terms(lp, lp.argmax(dim=1), a, ref, kl, ent),
        _reverse_kl,
        _kl_of_plain_probabilities,
        lambda *case: reinforce_by_terms(*case).detach(),
    ),
)


def joint_loss(
    log_probs,
    reference,
    chosen,
    utility,
    values,
    running,
    group,
    discount,
    kl_weight,
    entropy_weight,
    plain=True,
    others=lambda utility, values: utility[-1] - values[0],
    scaled=lambda better, running: ((better - better[running].mean()) / (better[running].std() + 1e-4))[running],
    value_error=lambda values, later, running: (values - later)[running].square().mean(),
):
    """The loss of a batch; the last four arguments leave room for mistakes."""
    rewards, guess = utility.diff(dim=0), values.detach() if plain else values
    better = generalised_advantages(rewards, guess, discount)
    if others is not None:
        better = better - mean_of_the_others(others(utility, guess), group)
    better = scaled(better, running)
    loss = reinforce_by_terms(log_probs, chosen, better, reference, kl_weight, entropy_weight)
    return loss + value_error(values, rewards_to_come(rewards), running)


def _finished_batch(seed: int) -> tuple:
    """Six episodes of up to five steps, of which some stop early; both networks are to learn.

    In the last case nothing is gained or expected, so that all advantages are 0, and so is their spread.
    """
    stops = torch.as_tensor(np.random.default_rng([75, seed]).integers(2, 6, size=6))
    running = torch.arange(5)[:, None] < stops
    n = int(running.sum())
    played = running * (seed < SEEDS[-1])
    gained = _torch_values(seed, 5, 6) * played
    utility = torch.cat([torch.zeros(1, 6), gained.cumsum(0)])
    values = (_torch_values(seed + 50, 5, 6) * played).requires_grad_()
    log_probs, reference = (torch.log_softmax(_torch_values(seed + shift, n, 4), dim=1) for shift in (0, 50))
    chosen = torch.as_tensor(np.random.default_rng([7, seed]).integers(4, size=n))
    weights = 2 + seed % 2, 0.5 + 0.1 * seed, 0.3, 0.2
    return log_probs.requires_grad_(), reference, chosen, utility, values, running, *weights


EAGLE_EXERCISES["07.5"] = Exercise(
    "the loss of a batch",
    joint_loss,
    cases=_finished_batch,
    compare=_other_loss,
    wrong=(
        partial(joint_loss, plain=False),
        partial(joint_loss, others=None),
        partial(joint_loss, others=lambda utility, values: utility[-1]),
        partial(joint_loss, scaled=lambda better, running: better[running]),
        partial(joint_loss, scaled=lambda better, running: ((better - better.mean()) / (better.std() + 1e-4))[running]),
        partial(
            joint_loss,
            scaled=lambda better, running: (better[running] - better[running].mean()) / better[running].var(),
        ),
        partial(  # divides by 0 where nothing was gained
            joint_loss,
            scaled=lambda better, running: (better[running] - better[running].mean()) / better[running].std(),
        ),
        partial(joint_loss, value_error=lambda values, later, running: 0 * values.sum()),
        partial(joint_loss, value_error=lambda values, later, running: (values - later).square().mean()),
        partial(joint_loss, value_error=lambda values, later, running: (values - later)[running].abs().mean()),
        partial(joint_loss, value_error=lambda values, later, running: -(values - later)[running].square().mean()),
        partial(
            joint_loss, value_error=lambda values, later, running: (values.detach() - later)[running].square().mean()
        ),
        lambda *case: joint_loss(*case).detach(),
    ),
)


class Lever:
    """A world of three levers for a loop to be tried on: what is played follows from the policy as it is then."""

    def __init__(self, seed: int) -> None:
        self.scores = torch.nn.Parameter(_torch_values(seed, 3))
        self.pays, self.seed, self.batches = _torch_values(seed + 50, 3), seed, 0

    def play_some(self, iteration: int):
        self.batches += 1
        rng = np.random.default_rng([self.seed, iteration])
        p = torch.softmax(self.scores.detach().double(), dim=0).numpy()
        return torch.as_tensor(rng.choice(3, size=20, p=p))

    def loss_of(self, episodes):
        gain = self.pays[episodes]
        loss = -((gain - gain.mean()) * torch.log_softmax(self.scores, dim=0)[episodes]).mean()
        facts = {"batches played": self.batches, "gain": float(gain.mean()), "loss": loss.item()}
        return loss, facts | {"first": self.scores[0].item()}


def train_by_rewards(play_some, loss_of, optimiser, iterations):
    curve = []
    for iteration in range(iterations):
        loss, facts = loss_of(play_some(iteration))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(facts)
    return curve


def _levers(seed: int) -> tuple:
    lever = Lever(seed)
    return lever.play_some, lever.loss_of, torch.optim.Adam([lever.scores], lr=0.1), 5


def _gradients_pile_up(play_some, loss_of, optimiser, iterations):
    curve = []
    for iteration in range(iterations):
        loss, facts = loss_of(play_some(iteration))
        loss.backward()
        optimiser.step()
        curve.append(facts)
    return curve


def _never_a_step(play_some, loss_of, optimiser, iterations):
    return [loss_of(play_some(iteration))[1] for iteration in range(iterations)]


def _one_batch_again(play_some, loss_of, optimiser, iterations):
    episodes = play_some(0)
    return train_by_rewards(lambda iteration: episodes, loss_of, optimiser, iterations)


def _plays_twice(play_some, loss_of, optimiser, iterations):
    curve = []
    for iteration in range(iterations):
        optimiser.zero_grad()
        loss_of(play_some(iteration))[0].backward()
        curve.append(loss_of(play_some(iteration))[1])
        optimiser.step()
    return curve


def _all_played_before(play_some, loss_of, optimiser, iterations):
    kept = [play_some(iteration) for iteration in range(iterations)]
    return train_by_rewards(kept.__getitem__, loss_of, optimiser, iterations)


EAGLE_EXERCISES["07.6"] = Exercise(
    "the loop",
    train_by_rewards,
    cases=_levers,
    wrong=(
        _gradients_pile_up,
        _never_a_step,
        _one_batch_again,
        _plays_twice,
        _all_played_before,
        lambda play, loss, optimiser, n: train_by_rewards(play, loss, optimiser, n - 1),
        lambda play, loss, optimiser, n: train_by_rewards(play, loss, optimiser, n)[-1],
        lambda play, loss, optimiser, n: train_by_rewards(lambda i: play(0), loss, optimiser, n),
    ),
)


def spread_by_kind(
    slopes,
    utility,
    values,
    own,
    group,
    discount,
    spread=lambda gradients: gradients.var(dim=0).sum() ** 0.5,
    **changed,
):
    """The spread of the gradient for each kind of weight; the last arguments leave room for mistakes."""
    rewards = utility.diff(dim=0)
    total = rewards.sum(dim=0)
    found = {
        "utility of the end": (own + total).repeat(len(rewards), 1),
        "return to go": rewards_to_come(rewards),
        "minus the value (GAE)": generalised_advantages(rewards, values, discount),
        "minus the others": rewards_to_come(rewards) - mean_of_the_others(total, group),
    }
    found["minus both (helpers)"] = found["minus the value (GAE)"] - mean_of_the_others(total - values[0], group)
    found |= {name.replace("_", " "): table(found, total, values, group) for name, table in changed.items()}
    return {name: float(spread(torch.einsum("te,tew->ew", table, slopes))) for name, table in found.items()}


def _played_slopes(seed: int) -> tuple:
    running = torch.arange(4)[:, None] < torch.as_tensor(np.random.default_rng([77, seed]).integers(2, 5, size=6))
    utility = torch.cat([torch.zeros(1, 6), (_torch_values(seed, 4, 6) * running).cumsum(0)])
    slopes = _torch_values(seed, 4, 6, 3) * running[..., None]
    return slopes, utility, _torch_values(seed + 50, 4, 6) * running, 3 + _torch_values(seed, 6), 2 + seed % 2, 0.8


def _spread_with(**changed):
    return lambda *case: spread_by_kind(*case, **changed)


def _spread_of_steps(slopes, utility, values, own, group, discount):
    """Takes each step for an episode of its own."""
    rewards, ones = utility.diff(dim=0), slopes.reshape(-1, 1, slopes.shape[-1]).transpose(0, 1)
    tables = (
        (own + utility[-1]).expand_as(rewards),
        rewards_to_come(rewards),
        generalised_advantages(rewards, values, discount),
        rewards_to_come(rewards) - mean_of_the_others(utility[-1], group),
        generalised_advantages(rewards, values, discount) - mean_of_the_others(utility[-1] - values[0], group),
    )
    found = [float((ones[0] * table.reshape(-1, 1)).var(dim=0).sum().sqrt()) for table in tables]
    return dict(zip(spread_by_kind(slopes, utility, values, own, group, discount), found, strict=True))


EAGLE_EXERCISES["07.7"] = Exercise(
    "what is subtracted",
    spread_by_kind,
    cases=_played_slopes,
    wrong=(
        _spread_with(spread=lambda gradients: gradients.std(dim=0).sum()),
        _spread_with(spread=lambda gradients: gradients.var(dim=0).sum()),
        _spread_with(spread=lambda gradients: gradients.var(dim=1).sum() ** 0.5),
        _spread_with(spread=lambda gradients: gradients.square().sum(dim=1).mean() ** 0.5),
        _spread_of_steps,
        lambda slopes, utility, values, own, *how: spread_by_kind(slopes, utility, values, 0 * own, *how),
        lambda slopes, utility, values, own, group, discount: spread_by_kind(
            slopes, utility, values, own, utility.shape[1], discount
        ),
        _spread_with(minus_the_others=lambda found, total, values, group: (
            found["return to go"] - mean_of_the_others(total - values[0], group))),
        _spread_with(minus_the_others=lambda found, total, values, group: (
            found["return to go"] - total.reshape(-1, group).mean(dim=1).repeat_interleave(group))),
        _spread_with(**{"minus_both_(helpers)": lambda found, total, values, group: (
            found["minus the value (GAE)"] - mean_of_the_others(total, group))}),
    ),
)  # fmt: skip


# --- 08 ----------------------------------------------------------------------------------------------------


def next_pairs(so_far, promise, tried, n):
    expected = np.where(tried, -np.inf, so_far[:, None] + promise)
    best = np.argsort(-expected, axis=None, kind="stable")[:n]
    return [(int(i // promise.shape[1]), int(i % promise.shape[1])) for i in best]


def _search_state(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    promise = normal_values(seed, 3, 7)
    tried = np.zeros(promise.shape, dtype=bool)
    tried[0, promise[0].argmax()] = tried[seed % 3, 2] = True
    return 2 * normal_values(seed, 3), promise, tried, 4


def _pairs(places, width) -> list[tuple[int, int]]:
    return [(int(i // width), int(i % width)) for i in places]


EAGLE_EXERCISES["08.1"] = Exercise(
    "where the next calls go",
    next_pairs,
    cases=_search_state,
    wrong=(
        lambda so_far, promise, tried, n: _pairs(
            np.argsort(-np.where(tried, -np.inf, promise), axis=None)[:n], promise.shape[1]
        ),
        lambda so_far, promise, tried, n: _pairs(
            np.argsort(-(so_far[:, None] + promise), axis=None)[:n], promise.shape[1]
        ),
        lambda so_far, promise, tried, n: [
            (int(so_far.argmax()), int(a))
            for a in np.argsort(-np.where(tried[so_far.argmax()], -np.inf, promise[so_far.argmax()]))[:n]
        ],
        lambda so_far, promise, tried, n: next_pairs(so_far, promise, tried, n)[::-1],
        lambda so_far, promise, tried, n: next_pairs(-so_far, -promise, tried, n),
    ),
)


def search_by_promise(text, look, ask, calls, rounds):
    known, asked, found = [text], set(), []
    for _ in range(rounds):
        so_far, promise = look(known)
        tried = np.array([[(old, aim) in asked for aim in range(promise.shape[1])] for old in known])
        pairs = [(known[row], aim) for row, aim in next_pairs(so_far, promise, tried, calls // rounds)]
        new = ask(pairs)
        asked |= set(pairs)
        known += [one for one in dict.fromkeys(new) if one not in known]
        found += new
    return found


class ToySearch:
    """Texts are the aims that led to them; every third answer repeats its text, as a model does that fails."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def look(self, texts):
        """Gains so far, none for the start, and promises, alike for all texts of one length."""
        gained = [len(text) > 1 and normal_values(self.seed + 31 * sum(map(ord, text)), 1)[0] for text in texts]
        return np.array(gained, dtype=float), np.stack([normal_values(self.seed + 7 * len(text), 5) for text in texts])

    def ask(self, pairs):
        """The texts that come of some pairs of text and aim."""
        return [text if (len(text) + aim) % 3 == 2 else f"{text}{aim}" for text, aim in pairs]


def _toy_search(seed: int) -> tuple:
    toy = ToySearch(seed)
    return "x", toy.look, toy.ask, 8, 4


def _searching(
    known=lambda text, known, new: [*known, *(o for o in dict.fromkeys(new) if o not in known)], forget=False
):
    """A wrong answer: a search that knows, or remembers to have asked, something else."""

    def answer(text, look, ask, calls, rounds):
        texts, asked = [text], set()
        found: list[tuple] = []
        for _ in range(rounds):
            so_far, promise = look(texts)
            tried = np.array([[(t, aim) in asked and not forget for aim in range(promise.shape[1])] for t in texts])
            pairs = [(texts[row], aim) for row, aim in next_pairs(so_far, promise, tried, calls // rounds)]
            new = ask(pairs)
            asked |= set(pairs)
            texts, found = known(text, texts, new), found + new
        return found

    return answer


EAGLE_EXERCISES["08.2"] = Exercise(
    "the search",
    search_by_promise,
    cases=_toy_search,
    wrong=(
        _searching(forget=True),
        _searching(lambda text, known, new: [text]),
        _searching(lambda text, known, new: list(dict.fromkeys(new))),
        lambda text, look, ask, calls, rounds: search_by_promise(text, look, ask, calls, 1),
        lambda text, look, ask, calls, rounds: search_by_promise(text, look, ask, calls * rounds, rounds)[:calls],
        lambda text, look, ask, calls, rounds: [text, *search_by_promise(text, look, ask, calls, rounds)],
        lambda text, look, ask, calls, rounds: search_by_promise(text, look, ask, calls, rounds)[-calls // rounds :],
    ),
)


def expected_by_policy(features, asked, left, fit):
    own = features.copy()
    own[:, FEATURES.index("asked")] = np.isin(np.arange(len(own)), asked)
    own[:, FEATURES.index("left")] = left
    center, spread, weights, intercept = fit
    return intercept + (own - center) / spread @ weights


def _aims_of_a_state(seed: int) -> tuple:
    """Nine aims, of which none, one or two were asked for before, and a fit with an intercept."""
    n, features = len(FEATURES), normal_values(seed, 9, len(FEATURES))
    features[:, [FEATURES.index("asked"), FEATURES.index("left")]] = 0
    fit = normal_values(seed, n), np.exp(normal_values(seed + 50, n)), normal_values(seed + 70, n), 0.5 + seed
    return features, ((), (2,), (5, 2), (8,), (0, 7))[seed], 1 - 0.2 * seed, fit


def _unlike_the_fit(change):
    """A wrong answer: the policy with another fit."""
    return lambda features, asked, left, fit: expected_by_policy(features, asked, left, change(*fit))


EAGLE_EXERCISES["08.3"] = Exercise(
    "what a policy expects",
    expected_by_policy,
    cases=_aims_of_a_state,
    wrong=(
        lambda features, asked, left, fit: expected_by_policy(features, (), left, fit),
        lambda features, asked, left, fit: expected_by_policy(features, range(9), left, fit),
        lambda features, asked, left, fit: expected_by_policy(features, asked, 0, fit),
        lambda features, asked, left, fit: expected_by_policy(features, asked, 1 - left, fit),
        lambda features, asked, left, fit: expected_by_policy(np.nan_to_num((features - fit[0]) / fit[1]), asked, left,
                                                              (0, 1, *fit[2:])),
        _unlike_the_fit(lambda center, spread, weights, intercept: (0, 1, weights, intercept)),
        _unlike_the_fit(lambda center, spread, weights, intercept: (center, 1 / spread, weights, intercept)),
        _unlike_the_fit(lambda center, spread, weights, intercept: (0, spread, weights, intercept)),
        _unlike_the_fit(lambda center, spread, weights, intercept: (center, spread, weights, 0)),
        lambda *case: expected_by_policy(*case).max(),
    ),
)  # fmt: skip


def by_two_rules(paid, second, judge, emitted, calls):
    best = (paid + second)[:, :calls].argmax(axis=1)
    return np.average(judge, axis=1, weights=emitted), judge[np.arange(len(judge)), best]


def _visited_by_three(seed: int) -> tuple:
    """Nine texts of each of six starts by three encoders that half agree; some of them are emitted."""
    common = normal_values(seed, 6, 9)
    paid, second, judge = (common + normal_values(seed, 6, 9, shift)[..., 0] for shift in (1, 2, 3))
    emitted = np.random.default_rng([84, seed]).random((6, 9)) < 0.4
    emitted[np.arange(6), seed + np.arange(6) % 4] = True
    return paid, second, judge, emitted, 4 + seed % 3


def _two_rules(handed=lambda judge, emitted: np.average(judge, axis=1, weights=emitted), by=None, value=None):
    """A wrong answer: something else handed out, chosen, or said of what was chosen."""

    def answer(paid, second, judge, emitted, calls):
        best = (paid + second if by is None else by(paid, second, judge))[:, :calls].argmax(axis=1)
        worth = judge if value is None else value(paid, second)
        return handed(judge, emitted), worth[np.arange(len(judge)), best]

    return answer


EAGLE_EXERCISES["08.4"] = Exercise(
    "two rules",
    by_two_rules,
    cases=_visited_by_three,
    wrong=(
        _two_rules(by=lambda paid, second, judge: judge),
        _two_rules(by=lambda paid, second, judge: paid),
        _two_rules(by=lambda paid, second, judge: paid + second + judge),
        _two_rules(by=lambda paid, second, judge: np.maximum(paid, second)),
        _two_rules(value=lambda paid, second: paid),
        _two_rules(value=lambda paid, second: (paid + second) / 2),
        _two_rules(handed=lambda judge, emitted: judge.mean(axis=1)),
        _two_rules(handed=lambda judge, emitted: (judge * emitted).mean(axis=1)),
        _two_rules(handed=lambda judge, emitted: np.where(emitted, judge, -np.inf).max(axis=1)),
        lambda paid, second, judge, emitted, calls: by_two_rules(paid, second, judge, emitted, judge.shape[1]),
        lambda paid, second, judge, emitted, calls: by_two_rules(paid, second, judge, emitted[:, ::-1], calls),
        lambda *case: by_two_rules(*case)[::-1],
        lambda *case: tuple(part.mean() for part in by_two_rules(*case)),
    ),
)


def _common_seeds(one, other):
    n = min(len(one), len(other))
    return one - other if n == 1 else one[:n] - other[:n]


def crossed_and_paired(one, other, items, n_draws, rng):
    """All draws at once, from the sums of the rows of each movie."""
    values = _common_seeds(one, other)
    number = np.unique(items, return_inverse=True)[1]
    sums, counts = np.stack([np.bincount(number, row) for row in values]), np.bincount(number)
    drawn = rng.integers(len(counts), size=(n_draws, 1, len(counts)))
    seeds = rng.integers(len(values), size=(n_draws, len(values), 1))
    means = sums[seeds, drawn].sum(axis=(1, 2)) / (len(values) * counts[drawn[:, 0]].sum(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _drawn_one_by_one(
    one,
    other,
    items,
    n_draws,
    rng,
    pair=_common_seeds,
    rows=lambda items, drawn: np.concatenate([np.flatnonzero(items == item) for item in drawn]),
    seeds=lambda n, rng: rng.integers(n, size=n),
    clusters=np.unique,
    ends=(2.5, 97.5),
):
    """A paired interval as the notebook writes it; the last five arguments leave room for mistakes."""
    values, every, means = pair(one, other), clusters(items), []
    for _ in range(n_draws):
        some = rows(items, rng.choice(every, len(every)))
        means.append(values[np.ix_(seeds(len(values), rng), some)].mean())
    return values.mean(), *np.percentile(means, ends)


def _two_methods(seed: int) -> tuple:
    """Gains of two methods: starts differ most and alike for both, then movies, then seeds; not as many seeds each."""
    rng, movies = np.random.default_rng([85, seed]), np.repeat(np.arange(8), [1, 2, 3, 4, 2, 3, 1, 4])
    n_one, n_other = ((1, 1), (3, 1), (3, 3), (5, 2), (1, 4))[seed]
    hard, items = 3 * rng.normal(size=len(movies)), rng.permutation(movies)
    lead = 0.5 + rng.normal(size=8)[items] + 0.6 * rng.normal(size=(n_one, 1))
    other = hard + 0.6 * rng.normal(size=(n_other, 1)) + 0.2 * rng.normal(size=(n_other, len(items)))
    return hard + lead + 0.2 * rng.normal(size=(n_one, len(items))), other, items, 3000, np.random.default_rng(seed)


def _other_interval(answer, expected) -> str | None:
    """What is wrong with an interval: its mean is known, its ends are as sure as so many draws make them."""
    if len(answer) != 3:
        return f"{len(answer)} numbers, expected mean, low and high"
    if problem := difference(float(answer[0]), expected[0]):
        return f"mean: {problem}"
    width = expected[2] - expected[1]
    for name, found, wanted in zip(("low", "high"), answer[1:], expected[1:], strict=True):
        if not abs(found - wanted) < 0.08 * width:
            return f"{name}: value {found:.3g}, expected about {wanted:.3g}"
    return None


def _drawn_apart(one, other, items, n_draws, rng):
    """Draws the movies of the two methods apart, as if they had not been tried on the same starts."""
    parts, every = [], np.unique(items)
    for values in (one, other):
        rows = [np.flatnonzero(np.isin(items, item)) for item in every]
        drawn = [np.concatenate([rows[n] for n in rng.integers(8, size=8)]) for _ in range(n_draws)]
        parts.append(np.array([values[:, some].mean() for some in drawn]))
    return _common_seeds(one, other).mean(), *np.percentile(parts[0] - parts[1], [2.5, 97.5])


EAGLE_EXERCISES["08.5"] = Exercise(
    "a paired interval",
    crossed_and_paired,
    cases=_two_methods,
    compare=_other_interval,
    wrong=(
        partial(_drawn_one_by_one, clusters=lambda items: np.arange(len(items)), rows=lambda items, drawn: drawn),
        partial(_drawn_one_by_one, rows=lambda items, drawn: np.flatnonzero(np.isin(items, drawn))),
        partial(_drawn_one_by_one, rows=lambda items, drawn: drawn),
        partial(_drawn_one_by_one, rows=lambda items, drawn: np.arange(len(items))),
        partial(_drawn_one_by_one, seeds=lambda n, rng: np.arange(n)),
        partial(_drawn_one_by_one, seeds=lambda n, rng: rng.integers(n, size=1)),
        partial(_drawn_one_by_one, pair=lambda one, other: one - other.mean(axis=0)),
        partial(_drawn_one_by_one, pair=lambda one, other: one[:1] - other[:1]),
        partial(_drawn_one_by_one, pair=lambda one, other: _common_seeds(other, one)),
        partial(_drawn_one_by_one, pair=lambda one, other: one),
        partial(_drawn_one_by_one, ends=(5, 95)),
        partial(_drawn_one_by_one, ends=(25, 75)),
        lambda *case: crossed_and_paired(*case)[1:],
        _drawn_apart,
    ),
)


def _visited_values(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    values, noise = normal_values(seed, 6, 9), normal_values(seed, 6, 9, 2)[..., 0]
    return values, values + noise, 4 + seed % 3


def confirmed_curve(paid, judged, n):
    firsts = [paid[:, :calls].argmax(axis=1) for calls in range(1, n + 1)]
    rows = np.arange(len(paid))
    return np.array([[paid[rows, best].mean(), judged[rows, best].mean()] for best in firsts])


EAGLE_EXERCISES["08.6"] = Exercise(
    "what the judge confirms",
    confirmed_curve,
    cases=_visited_values,
    wrong=(
        lambda paid, judged, n: np.array(
            [[paid[:, :c].max(1).mean(), judged[:, :c].max(1).mean()] for c in range(1, n + 1)]
        ),
        lambda paid, judged, n: confirmed_curve(judged, paid, n),
        lambda paid, judged, n: confirmed_curve(paid, judged, n).T,
        lambda paid, judged, n: confirmed_curve(paid, judged, n + 1)[1:],
        lambda paid, judged, n: np.array([[paid[:, :c].mean(), judged[:, :c].mean()] for c in range(1, n + 1)]),
    ),
)


def paid_after(
    training_calls,
    calls,
    gain,
    curve,
    reached=lambda short, n: short[-1] + 2 if len(short) else 1,
    starts=lambda training_calls, calls, needed: training_calls / (needed - calls) if needed > calls else np.inf,
):
    """Break-even; the last two arguments leave room for mistakes."""
    needed = int(reached(np.flatnonzero(curve < gain), len(curve)))
    return needed, float(starts(training_calls, calls, needed))


RIVALS = (  # mean gains for 1, 2, 3... calls: steady, with a dip, too low, as many calls, fewer
    (0.0, 0.1, 0.2, 0.3, 0.35),
    (0.1, 0.3, 0.2, 0.28, 0.4),
    (0.0, 0.1, 0.1, 0.1, 0.2),
    (0.0, 0.3, 0.4, 0.5, 0.5),
    (0.3, 0.4, 0.4, 0.5, 0.5),
)


EAGLE_EXERCISES["08.7"] = Exercise(
    "break-even",
    paid_after,
    cases=lambda seed: (2400 + 100 * seed, 2, 0.25, np.array(RIVALS[seed])),
    wrong=(
        partial(paid_after, reached=lambda short, n: short[-1] + 1 if len(short) else 1),
        partial(paid_after, reached=lambda short, n: np.setdiff1d(range(n + 1), short)[0] + 1),
        partial(paid_after, reached=lambda short, n: min(short[-1] + 2, n) if len(short) else 1),
        partial(paid_after, reached=lambda short, n: len(short)),
        partial(paid_after, reached=lambda short, n: n - len(short) + 1),
        partial(paid_after, starts=lambda training_calls, calls, needed: training_calls / needed),
        partial(paid_after, starts=lambda training_calls, calls, needed: training_calls / max(1, needed - calls)),
        partial(paid_after, starts=lambda training_calls, calls, needed: training_calls / abs(needed - calls or 1)),
        partial(paid_after, starts=lambda training_calls, calls, needed: (
            training_calls / (needed - calls) if needed > calls else 0)),
        partial(paid_after, starts=lambda training_calls, calls, needed: (training_calls + calls) / needed),
        lambda *case: paid_after(*case)[::-1],
        lambda *case: paid_after(*case)[1],
    ),
)  # fmt: skip


# --- 09 ----------------------------------------------------------------------------------------------------


def aims_by_words(labels, themes):
    found: dict[tuple, list[int]] = {}
    for position, (names, theme) in enumerate(zip(labels, themes, strict=True)):
        if names:
            found.setdefault((tuple(sorted(names[:2])), theme), []).append(position)
    return {words: tuple(positions) for words, positions in found.items()}


def _labelled_items(seed: int) -> tuple[list[list[str]], list[str]]:
    """Twenty items with up to three labels in any order, and one of three themes; some have no label."""
    rng, names = np.random.default_rng([9, seed]), ["Tops", "Knits", "Dresses", "Jeans"]
    labels = [rng.permutation(names)[: rng.integers(0, 4)].tolist() for _ in range(20)]
    return labels, rng.choice(["silk", "wool", "denim"], 20).tolist()


def _aims_with(words, empty_too=False):
    """A wrong answer: aims by other words than those that count."""

    def answer(labels, themes):
        found: dict[tuple, list[int]] = {}
        for position, (names, theme) in enumerate(zip(labels, themes, strict=True)):
            if names or empty_too:
                found.setdefault(words(names, theme), []).append(position)
        return {key: tuple(positions) for key, positions in found.items()}

    return answer


EAGLE_EXERCISES["09.1"] = Exercise(
    "aims from words",
    aims_by_words,
    cases=_labelled_items,
    wrong=(
        _aims_with(lambda names, theme: (tuple(sorted(names[:2])), theme), empty_too=True),
        _aims_with(lambda names, theme: (tuple(names[:2]), theme)),
        _aims_with(lambda names, theme: (tuple(sorted(names)), theme)),
        _aims_with(lambda names, theme: (tuple(sorted(names)[:2]), theme)),
        _aims_with(lambda names, theme: tuple(sorted(names[:2]))),
        lambda labels, themes: {words: len(at) for words, at in aims_by_words(labels, themes).items()},
        lambda labels, themes: {words: at[:1] for words, at in aims_by_words(labels, themes).items()},
    ),
)


def age_groups(ages, counts, wanted):
    groups, youngest, total = [], None, 0
    for age, count in zip(ages, counts, strict=True):
        youngest, total = (age if youngest is None else youngest), total + count
        if total >= wanted:
            groups.append((youngest, age))
            youngest, total = None, 0
    if youngest is not None:
        groups = [*groups[:-1], (groups[-1][0] if groups else youngest, ages[-1])]
    return groups


def _ages(seed: int) -> tuple[list[int], list[int], int]:
    """One review is missing for a first group of one age; the last ages are too few; a case in three has no group."""
    counts = np.random.default_rng(seed).integers(3, 30, size=12).tolist()
    return list(range(18, 30)), [39, *counts[1:-1], 1], 1000 if seed % 3 == 2 else 40


EAGLE_EXERCISES["09.2"] = Exercise(
    "ages to groups",
    age_groups,
    cases=_ages,
    wrong=(
        lambda ages, counts, wanted: [(age, age) for age in ages],
        lambda ages, counts, wanted: [(ages[0], ages[-1])] * 2,
        lambda ages, counts, wanted: age_groups(ages, counts, wanted)[:-1],
        lambda ages, counts, wanted: [*age_groups(ages, counts, wanted), (ages[-1], ages[-1])],
        lambda ages, counts, wanted: age_groups(ages, counts, wanted // 2),
        lambda ages, counts, wanted: [high for _, high in age_groups(ages, counts, wanted)],
    ),
)


def stars_of_groups(ages, garments, stars, groups):
    table = pd.DataFrame(
        {"user": np.searchsorted([oldest for _, oldest in groups], ages), "item": garments, "stars": stars}
    )
    means = table.groupby(["user", "item"], as_index=False)["stars"].mean()
    return tuple(means[column].to_numpy() for column in means.columns)


def _reviews(seed: int) -> tuple:
    """Sixty reviews of eight garments by ages in four groups, of which one is a single age."""
    rng = np.random.default_rng([92, seed])
    groups = [(18, 20), (21, 21), (22, 26), (29, 40 + seed)]
    ages = rng.choice([18, 19, 20, 21, 22, 23, 26, 29, 33, 40 + seed], size=60)
    return ages, rng.integers(8, size=60), rng.integers(1, 6, size=60).astype(float), groups


def _stars_by(edges=lambda groups: [oldest for _, oldest in groups], side="left", how="mean", order=("user", "item")):
    """A wrong answer: other limits of the groups, something else than the mean, or another order."""

    def answer(ages, garments, stars, groups):
        users = np.searchsorted(edges(groups), ages, side=side)
        table = pd.DataFrame({"user": users, "item": garments, "stars": stars})
        found = table.groupby(list(order), as_index=False)["stars"].agg(how)
        return tuple(found[column].to_numpy() for column in ("user", "item", "stars"))

    return answer


EAGLE_EXERCISES["09.3"] = Exercise(
    "ratings of groups",
    stars_of_groups,
    cases=_reviews,
    wrong=(
        _stars_by(edges=lambda groups: [youngest for youngest, _ in groups]),
        _stars_by(edges=lambda groups: [youngest for youngest, _ in groups], side="right"),
        _stars_by(side="right"),
        _stars_by(how="sum"),
        _stars_by(how="last"),
        _stars_by(how="median"),
        _stars_by(order=("item", "user")),
        lambda ages, garments, stars, groups: (np.searchsorted([old for _, old in groups], ages), garments, stars),
        lambda ages, garments, stars, groups: stars_of_groups(
            ages, garments, stars, [(age, age) for age in np.unique(ages)]
        ),
    ),
)


def error_taken_away(users, items, stars, seed, fit):
    train, held, _ = split_ratings(len(stars), seed)
    model = fit(users[train], items[train], stars[train])
    level = model.user_level[users[held]] + model.item_bias[items[held]]
    return rmse(level, stars[held]) - rmse(model.predict(users[held], items[held]), stars[held])


def fit_few(users, items, stars):
    """Two factors of eight users and ten items."""
    return fit_als(users, items, stars, 8, 10, rank=2, n_sweeps=3)


def _tasteful_ratings(seed: int) -> tuple:
    """Most of the ratings that eight users could give to ten items, with two tastes in them."""
    rng = np.random.default_rng([94, seed])
    users, items = np.divmod(rng.permutation(80)[:70], 10)
    likes = (normal_values(seed, 8, 2)[users] * normal_values(seed, 10, 2)[items]).sum(axis=1)
    return users, items, np.clip(3 + 0.7 * likes + 0.3 * normal_values(seed, 70), 1, 5), seed, fit_few


def _taken_away(rows=lambda parts: (parts[0], parts[1]), level=None, error=rmse, sign=1):
    """A wrong answer: other rows to fit and to ask, another level, or another error."""

    def answer(users, items, stars, seed, fit):
        fitted, asked = rows(split_ratings(len(stars), seed))
        model = fit(users[fitted], items[fitted], stars[fitted])
        known = model.user_level[users[asked]] + model.item_bias[items[asked]]
        known = known if level is None else level(model, users[asked], items[asked])
        by_factors = model.predict(users[asked], items[asked])
        return sign * (error(known, stars[asked]) - error(by_factors, stars[asked]))

    return answer


EAGLE_EXERCISES["09.4"] = Exercise(
    "what factors take away",
    error_taken_away,
    cases=_tasteful_ratings,
    wrong=(
        _taken_away(rows=lambda parts: (np.concatenate(parts), parts[1])),
        _taken_away(rows=lambda parts: (parts[0], parts[2])),
        _taken_away(rows=lambda parts: (parts[0], parts[0])),
        _taken_away(level=lambda model, users, items: np.full(len(users), model.mean)),
        _taken_away(level=lambda model, users, items: model.user_level[users]),
        _taken_away(error=lambda found, stars: float(np.mean((np.clip(found, 1, 5) - stars) ** 2))),
        _taken_away(error=lambda found, stars: float(np.abs(np.clip(found, 1, 5) - stars).mean())),
        _taken_away(sign=-1),
    ),
)


def planted(stars, level, order, users, items, of_users, of_items, size):
    likes = (of_users[users] * of_items[items]).sum(axis=1)
    return level + (stars - level)[order] + size * likes / likes.std()


def _rated_pairs(seed: int) -> tuple:
    rng = np.random.default_rng([93, seed])
    users, items = rng.integers(6, size=40), rng.integers(9, size=40)
    level = 3 + normal_values(seed, 6)[users] + normal_values(seed, 9)[items]
    factors = normal_values(seed, 6, 2), normal_values(seed, 9, 2)
    return level + normal_values(seed, 40), level, rng.permutation(40), users, items, *factors, 0.3 * seed


def _planted_wrongly(rests, likes):
    """A wrong answer from what is done with the rests and with the likes."""

    def answer(stars, level, order, users, items, of_users, of_items, size):
        found = (of_users[users] * of_items[items]).sum(axis=1)
        return level + rests(stars - level, order) + likes(found, size)

    return answer


def _dealt(rests, order):
    return rests[order]


EAGLE_EXERCISES["09.5"] = Exercise(
    "a planted taste",
    planted,
    cases=_rated_pairs,
    wrong=(
        _planted_wrongly(lambda rests, order: rests, lambda likes, size: size * likes / likes.std()),
        _planted_wrongly(lambda rests, order: 0 * rests, lambda likes, size: size * likes / likes.std()),
        _planted_wrongly(_dealt, lambda likes, size: size * likes),
        _planted_wrongly(_dealt, lambda likes, size: size * likes / likes.var()),
        _planted_wrongly(_dealt, lambda likes, size: size**2 * likes / likes.std()),
        _planted_wrongly(_dealt, lambda likes, size: size * likes[::-1] / likes.std()),
        lambda stars, level, order, users, items, of_users, of_items, size: planted(
            stars[order], level, order, users, items, of_users, of_items, size
        ),
        lambda stars, level, order, users, items, of_users, of_items, size: planted(
            stars, stars.mean(), order, users, items, of_users, of_items, size
        ),
    ),
)


def lead_over_control(method, control, by, garments, drawn):
    lead = _best_by_two(method, by) - _best_by_two(control, by)
    sums, counts = np.bincount(garments, lead), np.bincount(garments)
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return lead.mean(), *np.percentile(means, [2.5, 97.5])


def _best_by_two(gains, by, chosen_by=("paid", "second")):
    places = sum(gains[name] for name in chosen_by).argmax(axis=-1)
    return np.take_along_axis(gains[by], places[..., None], axis=-1)[..., 0].mean(axis=0)


def _two_methods_for_garments(seed: int) -> tuple:
    """Gains of two methods by three encoders, of which two agree in part; garments have one, two or three starts."""
    rng, garments = np.random.default_rng([96, seed]), np.repeat(np.arange(6), [1, 2, 3, 2, 1, 3])
    of_garment = rng.normal(size=6)[garments][:, None]

    def gains(seeds):
        true = of_garment + rng.normal(size=(seeds, 12, 5))
        return {name: true + rng.normal(size=true.shape) for name in ("paid", "second", "judge")}

    by = "judge" if seed % 2 else "paid"
    return gains(1 + seed % 3), gains(1), by, garments, rng.integers(6, size=(300, 6))


def _lead(best=_best_by_two, interval=(2.5, 97.5), mean_of=lambda sums, counts: sums.sum(axis=1) / counts.sum(axis=1)):
    """A wrong answer: something else is chosen, another interval, or another mean of drawn garments."""

    def answer(method, control, by, garments, drawn):
        lead = best(method, by) - best(control, by)
        sums, counts = np.bincount(garments, lead), np.bincount(garments)
        return lead.mean(), *np.percentile(mean_of(sums[drawn], counts[drawn]), interval)

    return answer


def _unpaired(method, control, by, garments, drawn):
    """The control's mean taken off the method's interval."""
    nothing = {name: 0 * gains for name, gains in control.items()}
    own = np.array(lead_over_control(method, nothing, by, garments, drawn))
    return tuple(own - _best_by_two(control, by).mean())


EAGLE_EXERCISES["09.6"] = Exercise(
    "the lead over the control",
    lead_over_control,
    cases=_two_methods_for_garments,
    wrong=(
        _lead(best=lambda gains, by: _best_by_two(gains, by, (by,))),
        _lead(best=lambda gains, by: _best_by_two(gains, by, ("paid",))),
        _lead(best=lambda gains, by: _best_by_two(gains, by, ("paid", "second", "judge"))),
        _lead(best=lambda gains, by: gains[by].mean(axis=(0, 2))),
        _lead(best=lambda gains, by: _best_by_two({name: some[:1] for name, some in gains.items()}, by)),
        _lead(interval=(5, 95)),
        _lead(interval=(0, 100)),
        _lead(mean_of=lambda sums, counts: (sums / counts).mean(axis=1)),
        _lead(mean_of=lambda sums, counts: sums.sum(axis=1) / counts.sum(axis=1).mean()),
        _unpaired,
        lambda method, control, by, garments, drawn: lead_over_control(control, method, by, garments, drawn),
        lambda method, control, by, garments, drawn: lead_over_control(method, control, by, np.arange(12), drawn),
        lambda *case: lead_over_control(*case)[0],
    ),
)


def own_minus_others(moves, owners, users):
    gained = moves @ users.T
    own = gained[np.arange(len(moves)), owners]
    return own - (gained.sum(axis=1) - own) / (len(users) - 1)


EAGLE_EXERCISES["09.7"] = Exercise(
    "for her, or for anybody?",
    own_minus_others,
    cases=lambda seed: (
        normal_values(seed, 7, 4),
        np.random.default_rng(seed).integers(5 + seed, size=7),
        normal_values(seed, 5 + seed, 4),
    ),
    wrong=(
        lambda moves, owners, users: (moves * users[owners]).sum(axis=1),
        lambda moves, owners, users: (moves * users[owners]).sum(axis=1) - (moves @ users.T).mean(axis=1),
        lambda moves, owners, users: -own_minus_others(moves, owners, users),
        lambda moves, owners, users: (moves @ users.T).mean(axis=1),
        lambda moves, owners, users: own_minus_others(moves, np.roll(owners, 1), users),
        lambda moves, owners, users: own_minus_others(moves, owners, users).mean(),
        lambda moves, owners, users: (moves @ users.T)[:, owners].mean(axis=1) - (moves @ users.T).mean(axis=1),
    ),
)
