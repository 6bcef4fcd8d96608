"""The environment behind the interface of Gymnasium, for agents that expect one.

`EagleEnv` is one episode after another; `EagleVectorEnv` steps many side by side with one batched rewrite and
gives the same transitions as single environments with the same seeds. The course's own loops use
`environment.run_episodes`, which follows the same rules: an episode that begins with `reset(seed=s)` and a given
start draws the rewrites of `run_episodes` with seed s.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from jaxtyping import Bool, Float, Int

from helpers.domains.ideas import ascii_line
from helpers.eagle.environment import Integers, World, step_texts
from helpers.eagle.rewriting import Start, seed_of

MAX_LENGTH = 1000  # characters of a text or a profile in an observation
CHARSET = string.digits + string.ascii_letters + string.punctuation + " \n"
REWARDS = ("terminal", "dense")


class Running(NamedTuple):
    """An episode in progress: where it began, where it stands, and what led there.

    `utility`, `rating` and `novelty` are those of the text (`UtilityParts`); `gained` is what the last step added to
    the utility, in stars.
    """

    start: Start
    seed: int
    text: str
    z: Float[np.ndarray, " dim"]
    utility: float
    rating: float
    novelty: float
    gained: float = 0.0
    instructions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return len(self.instructions)


def start_episodes(world: World, drawn: Sequence[tuple[Start, int]]) -> list[Running]:
    """Episodes before their first step, from starts and episode seeds."""
    places = _measure(world, [start.text for start, _ in drawn], [start.user for start, _ in drawn])
    return [Running(start, seed, start.text, *place) for (start, seed), place in zip(drawn, places, strict=True)]


def advance(world: World, running: Sequence[Running], actions: Integers) -> list[Running]:
    """Every episode one step further, with one batched rewrite; they need not be at the same step."""
    users = [now.start.user for now in running]
    seeds = [seed_of(now.seed, now.step) for now in running]
    rewrites = step_texts(world, [now.text for now in running], users, actions, seeds)
    after = []
    for now, action, text, problem, (z, utility, rating, novelty) in zip(
        running, actions, *rewrites, _measure(world, rewrites.texts, users), strict=True
    ):
        instruction = world.instructions(now.start.user)[action]
        after.append(
            now._replace(
                text=text,
                z=z,
                utility=utility,
                rating=rating,
                novelty=novelty,
                gained=utility - now.utility,
                instructions=(*now.instructions, instruction),
                problems=(*now.problems, problem),
            )
        )
    return after


def _measure(
    world: World, texts: Sequence[str], users: Sequence[int]
) -> list[tuple[Float[np.ndarray, " dim"], float, float, float]]:
    """Embedding of each text, and its utility and the two parts for the user in the same place."""
    z = world.space.encoder(texts)
    return list(zip(z, *(part.tolist() for part in world.utility(z, users)), strict=True))


class EagleEnv(gymnasium.Env):
    """Editing one text at a time, under instructions, for its user.

    Observation: `text` (the movie idea) and `profile` (what the user likes), both in printable ASCII; `embedding`
    and `user`, each Float32[dim]; `step`, from 0 to H. Action: the number of one of the K instructions. An episode
    ends (`terminated`) after H = `world.horizon` steps. An answer that cannot be used leaves the text as it was.

    Info: `instruction` and `problem` of the last step (both "" after a reset; `problem` also when nothing was
    wrong), `invalid` (steps of this episode with a problem), `utility`, `rating` (both in stars) and `novelty` of
    the text, and `user` and `item` of the start.

    Args:
        starts: `reset` draws one of them at random, unless `options={"start": Start(...)}` names one.
        reward: "terminal" pays U(x_H) after the last step and 0 before it, as in the paper; "dense" pays
            U(x_{t+1}) - U(x_t) after every step, which sums to U(x_H) - U(x_0): the utility of the start, which no
            action changes, is left out.
        render_mode: "ansi" makes `render` return the utility, the instructions so far, and the text.

    Raises:
        ValueError: unknown reward or render mode, no starts, or a start whose text is no text of the observation.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's convention)
    observation_space: spaces.Dict

    def __init__(
        self, world: World, starts: Sequence[Start], *, reward: str = "terminal", render_mode: str | None = None
    ) -> None:
        if reward not in REWARDS:
            raise ValueError(f"unknown reward {reward!r}: choose one of {', '.join(REWARDS)}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}: choose 'ansi' or None")
        if not starts:
            raise ValueError("no starts to draw from: give at least one")
        self.world, self.reward, self.render_mode = world, reward, render_mode
        self.observation_space = observation_space(world)
        self.action_space = spaces.Discrete(len(world.actions))
        self.starts = [self._checked(start) for start in starts]
        self.running: Running | None = None

    def _checked(self, start: Start) -> Start:
        if start.text not in self.observation_space["text"]:
            raise ValueError(f"start {start.text[:40]!r}: its text must be 1 to {MAX_LENGTH} ASCII characters")
        return start

    def draw(self, seed: int | None = None, options: dict | None = None) -> tuple[Start, int]:
        """Start and seed of the next episode; a given seed is the episode's own and restarts the random numbers."""
        super().reset(seed=seed)
        start = self.starts[self.np_random.integers(len(self.starts))]
        drawn = int(self.np_random.integers(2**31))
        return self._checked((options or {}).get("start", start)), drawn if seed is None else int(seed)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begin an episode (see the class for `options`)."""
        [self.running] = start_episodes(self.world, [self.draw(seed, options)])
        return self.observation(), self.info()

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        """Rewrite the text under an instruction.

        Raises:
            ResetNeeded: before the first `reset`, or after the end of the episode.
            ValueError: no such action.
        """
        if self.running is None or self.over:
            raise ResetNeeded("no episode is running: call reset() before the first step and after the last")
        [self.running] = advance(self.world, [self.now], [action])
        return self.observation(), self.payment, self.over, False, self.info()

    @property
    def now(self) -> Running:
        """The episode in progress.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if self.running is None:
            raise ResetNeeded("no episode is running: call reset() before the first step and after the last")
        return self.running

    @property
    def over(self) -> bool:
        """Whether the episode has had all its steps."""
        return self.now.step == self.world.horizon

    @property
    def payment(self) -> float:
        """Reward of the last step, in stars."""
        if self.reward == "dense":
            return self.now.gained
        return self.now.utility if self.over else 0.0

    def observation(self) -> dict:
        """What the agent sees; new arrays at every call, as Gymnasium wants it."""
        now = self.now
        return {
            "text": now.text,
            "profile": ascii_line(str(self.world.profile(now.start.user)))[:MAX_LENGTH],
            "embedding": np.array(now.z, dtype=np.float32),
            "user": self.world.user_embeddings([now.start.user])[0].astype(np.float32),
            "step": np.int64(now.step),
        }

    def info(self) -> dict:
        """The facts of the class's docstring."""
        now = self.now
        return {
            "instruction": now.instructions[-1] if now.instructions else "",
            "problem": now.problems[-1] if now.problems else "",
            "invalid": sum(map(bool, now.problems)),
            "utility": now.utility,
            "rating": now.rating,
            "novelty": now.novelty,
            "user": int(now.start.user),
            "item": int(now.start.item),
        }

    def render(self) -> str | None:
        """The episode so far, as text; None without a render mode."""
        if self.render_mode is None:
            return None
        if self.running is None:
            raise ResetNeeded("nothing to show yet: call reset() first")
        now = self.running
        instructions = [
            f"{step}. {instruction}" + f" [{problem}]" * bool(problem)
            for step, (instruction, problem) in enumerate(zip(now.instructions, now.problems, strict=True), start=1)
        ]
        head = f"step {now.step} of {self.world.horizon}, U = {now.utility:.2f} stars"
        return "\n".join([head, *instructions, now.text])


def observation_space(world: World) -> spaces.Dict:
    """The observations of `EagleEnv`; embeddings have no bounds but those of their number format."""
    largest, dim = float(np.finfo(np.float32).max), world.space.items.shape[1]
    embedding, user = (spaces.Box(-largest, largest, (dim,), np.float32) for _ in range(2))
    return spaces.Dict(
        text=spaces.Text(MAX_LENGTH, charset=CHARSET),
        profile=spaces.Text(MAX_LENGTH, charset=CHARSET),
        embedding=embedding,
        user=user,
        step=spaces.Discrete(world.horizon + 1),
    )


class EagleVectorEnv(gymnasium.vector.VectorEnv):
    """n `EagleEnv`s in step: the same observations, rewards and infos as `SyncVectorEnv` of them, in one batch.

    Episodes that ended are reset by the next `step`, which ignores their actions (Gymnasium's next-step autoreset).

    Args:
        world, starts, reward, render_mode: as `EagleEnv`; num_envs: n.
    """

    metadata = EagleEnv.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        world: World,
        starts: Sequence[Start],
        num_envs: int,
        *,
        reward: str = "terminal",
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"{num_envs} environments: give at least 1")
        self.world, self.num_envs, self.render_mode = world, num_envs, render_mode
        self.envs = [EagleEnv(world, starts, reward=reward, render_mode=render_mode) for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = observation_space(world), self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None
    ) -> tuple[dict, dict]:
        """Begin all episodes; an int `seed` s stands for s, s + 1, ... `options` hold for every environment.

        Raises:
            ValueError: another number of seeds than of environments, or a `reset_mask` (all start together here).
        """
        if "reset_mask" in (options or {}):
            raise ValueError("reset_mask is not supported: all episodes have the same length, reset them together")
        if seed is None or isinstance(seed, int | np.integer):
            seed = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments: give one to each")
        drawn = [env.draw(one, options) for env, one in zip(self.envs, seed, strict=True)]
        self._place(start_episodes(self.world, drawn))
        return self._observations(), self._infos()

    def step(
        self, actions: Int[np.ndarray, " env"]
    ) -> tuple[dict, Float[np.ndarray, " env"], Bool[np.ndarray, " env"], Bool[np.ndarray, " env"], dict]:
        """One step of every episode; after their last one a reset instead, with reward 0.

        Raises:
            ResetNeeded: before the first `reset`.
            ValueError: no such action.
        """
        if self.envs[0].running is None:
            raise ResetNeeded("no episode is running: call reset() before the first step")
        rewards, never = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        if self.envs[0].over:
            observations, infos = self.reset()
            return observations, rewards, never, never.copy(), infos
        self._place(advance(self.world, [env.now for env in self.envs], actions))
        rewards[:] = [env.payment for env in self.envs]
        over = np.array([env.over for env in self.envs])
        return self._observations(), rewards, over, never, self._infos()

    # Gymnasium's own vector environments give None as well, where there is no render mode; its types leave that out.
    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]
        """What each environment renders."""
        return tuple(env.render() for env in self.envs)

    def _place(self, running: Sequence[Running]) -> None:
        for env, now in zip(self.envs, running, strict=True):
            env.running = now

    def _observations(self) -> dict:
        space, rows = self.single_observation_space, [env.observation() for env in self.envs]
        # Both give a dict for a space of dicts; Gymnasium's types say what they may give for any space.
        empty = cast(dict, create_empty_array(space, self.num_envs))
        return cast(dict, concatenate(space, rows, empty))

    def _infos(self) -> dict:
        infos: dict = {}
        for row, env in enumerate(self.envs):
            infos = self._add_info(infos, env.info(), row)
        return infos
