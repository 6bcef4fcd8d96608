"""What an instruction does: the expected displacement of a text in the embedding space.

The design needs z_a = E[E(x')] for every action (paper, section 4), and one rewrite of one text says little about
it: language models are noisy. Actions tried on several starts say more together. Their displacements split in two:

- a drift that all actions share: whatever is asked, a rewrite moves towards the middle of the space;
- the effect of an action, what it does beyond that, regressed on the sentence embedding of its wording, so that
  what was learnt of one user's wording ("more Western") carries over to another's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold

from helpers.eagle.environment import Expansion, Integers, World
from helpers.embedding.features import sentence_features

PENALTIES = np.logspace(-1, 2, 10)


@dataclass(frozen=True)
class Effects:
    """Expected displacements. `effects(user)` has shape (action, dim), relative to the mean over the actions.

    Attributes:
        wording: regression of an action's effect on the embedding of its instruction.
        drift: regression of the mean displacement on the embedding of the text.
        explained: R2 of the effects on starts that were left out of the fit (0 says: no better than the drift).
    """

    world: World
    wording: Ridge
    drift: RidgeCV
    explained: float
    _cache: dict[int, Float[np.ndarray, "action dim"]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, user: int) -> Float[np.ndarray, "action dim"]:
        if user not in self._cache:
            self._cache[user] = self.wording.predict(sentence_features(self.world.instructions(user)))
        return self._cache[user]

    def of_users(self, users: Integers) -> Float[np.ndarray, "row action dim"]:
        """One block of effects per entry of `users`."""
        return np.stack([self(int(user)) for user in users])

    def displacement(self, z: Float[np.ndarray, " dim"], user: int) -> Float[np.ndarray, "action dim"]:
        """Expected displacement of each action on a text at z: drift plus effect."""
        return self.drift.predict(z[None]) + self(user)


def fit_effects(world: World, expansion: Expansion) -> Effects:
    """Two ridge regressions; the penalty for the wording is chosen on starts that were left out.

    Raises:
        ValueError: fewer than two starts.
    """
    n_starts, n_actions, dim = expansion.displacement.shape
    if n_starts < 2:
        raise ValueError("one start does not tell an action's effect from the start's own: expand two or more")
    features = sentence_features(
        [instruction for start in expansion.starts for instruction in world.instructions(start.user)]
    )
    common = expansion.displacement.mean(axis=1)
    effects = (expansion.displacement - common[:, None]).reshape(-1, dim)
    groups = np.repeat(np.arange(n_starts), n_actions)
    folds = GroupKFold(min(5, n_starts))
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, cv=folds, scoring="r2").fit(features, effects, groups=groups)
    drift = RidgeCV(PENALTIES).fit(expansion.origin, common)
    return Effects(world, search.best_estimator_, drift, float(search.best_score_))
