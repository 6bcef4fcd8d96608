"""The task with the interface of Gymnasium, for agents that expect one.

It plays one episode after another. The course's own loop, `trajectories.play`, plays many side by side, with one
batched rewrite per step; an episode that begins with `reset(seed=s)` draws the rewrites of `play` in the world s.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from jaxtyping import Float

from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.steering import FEATURES, Options, State, Steering, Support, weighted


class SteeringEnv(gymnasium.Env):
    """Editing one text for its user, towards one of k aims at a time, until STOP or the last step.

    Observation: Float32[k + 1, feature], the features of every option (`steering.FEATURES`), STOP as the last row.
    Action: the number of an option. Reward: the change of utility by both encoders together, in stars; STOP adds
    nothing and costs no call. The rewards of an episode add up to the gain of its last text over its start. An answer
    that cannot be used leaves the text as it was.

    Info: `text`; `instructions`, one for each aim of the next step; `problem` of the last answer ("" if none); `gained`
    so far, in stars; `user` and `item` of the start.

    Args:
        task: its `k` aims are offered in every state.
        starts: `reset` draws one of them at random, unless `options={"start": Start(...)}` names one.
        support: how the k aims of a state are found.
        second: weight of the second encoder in the reward.

    Raises:
        ValueError: no starts, or fewer than k aims.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(
        self,
        task: Steering,
        starts: Sequence[Start],
        support: Support = "optimistic",
        *,
        second: float = 0.5,
    ) -> None:
        if not starts:
            raise ValueError("no starts to draw from: give at least one")
        if task.k > len(task.aims):
            raise ValueError(f"{task.k} of {len(task.aims)} aims: choose among no more than there are")
        self.task, self.starts, self.support, self.second = task, list(starts), support, second
        largest = float(np.finfo(np.float32).max)
        self.observation_space = spaces.Box(-largest, largest, (task.k + 1, len(FEATURES)), np.float32)
        self.action_space = spaces.Discrete(task.k + 1)
        self.state: State | None = None
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode (see the class for `options`); a seed is also that of the episode's rewrites."""
        super().reset(seed=seed)
        drawn = self.starts[self.np_random.integers(len(self.starts))]
        own = int(self.np_random.integers(2**31))
        start = (options or {}).get("start", drawn)
        self.world = own if seed is None else int(seed)
        self.state, self.gained, self.over = State(start, start.text), 0.0, False
        return self._observation(), self._info("")

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Rewrite the text towards an aim, or stop.

        Raises:
            ResetNeeded: before the first `reset`, or after the end of the episode.
            ValueError: no such option.
        """
        if self.state is None or self.over:
            raise ResetNeeded("no episode is running: call reset() before the first step and after the last")
        if action not in self.action_space:
            raise ValueError(f"no option {action}: choose one of 0 to {self.task.k}, the last one is STOP")
        problem, before, stops = "", self.gained, action == self.task.k
        if not stops:
            problem = self._rewrite(int(self._options().aims[action]))
        self.over = bool(stops or self.state.step == self.task.horizon)
        return self._observation(), self.gained - before, self.over, False, self._info(problem)

    def _rewrite(self, aim: int) -> str:
        """One call of the language model; what was wrong with the answer."""
        state = self._running
        rewrites = self.task.follow([state.text], [aim], [seed_of("step", state.step, self.world)])
        self.state = state.after(rewrites.texts[0], aim)
        self.gained = float(weighted(self.task.gained(state.start, rewrites.texts), self.second)[0])
        return rewrites.problems[0]

    @property
    def _running(self) -> State:
        assert self.state is not None  # for the type checker: whoever asks has begun an episode
        return self.state

    def _options(self) -> Options:
        return self.task.options(self._running, self.support)

    def _observation(self) -> Float[np.ndarray, "option feature"]:
        return self._options().features.astype(np.float32)

    def _info(self, problem: str) -> dict:
        start = self._running.start
        return {
            "text": self._running.text,
            "instructions": self.task.said(self._options().aims),
            "problem": problem,
            "gained": self.gained,
            "user": int(start.user),
            "item": int(start.item),
        }
