"""Drawings: posters that the code draws, and made-up users whose taste is known exactly.

Nowhere else in the course is the truth known. Here a user's stars are a formula of what a poster shows (warmth,
lightness, pattern, ...), with terms for combinations. An encoder gets only pixels and noisy ratings, so the gains that
it predicts for an agent can be compared with what the user would really say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.colors import hsv_to_rgb

from helpers.domains.domain import Domain

SIDE = 64  # pixels
PATTERNS = ("plain", "stripes", "dots", "checks")
WARMEST = 0.05  # hue, an orange red; the coolest lies opposite
MOTIFS = ("circle", "square", "triangle")
LATENT = (
    *("warm", "light", "vivid", "busy", "stripes", "dots", "checks", "round", "large"),
    *("warm and light", "busy stripes"),
)


@dataclass(frozen=True)
class Poster:
    """What one drawing shows.

    Attributes:
        hue: place on the colour wheel, 0 to 1, red at 0; light, vivid: brightness and saturation, 0 to 1.
        pattern, motif: one of `PATTERNS` and of `MOTIFS`; density: of the pattern, 0 to 1; size: of the motif, 0 to 1.
        tilt: of the pattern, in degrees; shift: where the pattern begins, 0 to 1. No user cares for these two.
        frame: width of a black frame as a share of the side, which no poster of the collection has.
    """

    hue: float
    light: float
    vivid: float
    pattern: str
    density: float
    motif: str
    size: float
    tilt: float = 0.0
    shift: float = 0.0
    frame: float = 0.0

    def __str__(self) -> str:
        parts = f"{self.pattern}, density {self.density:.2f}; {self.motif}, size {self.size:.2f}; "
        return parts + f"hue {self.hue:.2f}, light {self.light:.2f}, vivid {self.vivid:.2f}, tilt {self.tilt:.0f}"


def random_poster(rng: np.random.Generator) -> Poster:
    """A random poster without a frame."""
    numbers = {name: float(rng.random()) for name in ("hue", "light", "vivid", "density", "size", "shift")}
    pattern, motif = str(rng.choice(PATTERNS)), str(rng.choice(MOTIFS))
    return Poster(pattern=pattern, motif=motif, tilt=float(rng.uniform(-20, 20)), **numbers)


# --- drawing ---------------------------------------------------------------------------------------------


def draw(poster: Poster) -> UInt8[np.ndarray, "side side 3"]:
    """The picture of a poster, `SIDE` pixels wide."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    value, saturation = 0.35 + 0.6 * poster.light, 0.15 + 0.75 * poster.vivid
    ground = hsv_to_rgb([poster.hue, saturation, value])
    accent = hsv_to_rgb([poster.hue, saturation, 0.55 * value])
    picture = np.where(_pattern(poster, x, y)[..., None], accent, ground)
    picture = np.where(_motif(poster, x - 0.5, y - 0.5)[..., None], 1.0, picture)
    edge = np.minimum(np.minimum(x, 1 - 1 / SIDE - x), np.minimum(y, 1 - 1 / SIDE - y)) < poster.frame
    return np.round(255 * np.where(edge[..., None], 0.0, picture)).astype(np.uint8)


def _pattern(poster: Poster, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the pattern's colour goes."""
    angle, periods = np.deg2rad(poster.tilt), 3 + 7 * poster.density
    u = (x * np.cos(angle) + y * np.sin(angle)) * periods + poster.shift
    v = (y * np.cos(angle) - x * np.sin(angle)) * periods + poster.shift
    if poster.pattern == "stripes":
        return u % 1 < 0.5
    if poster.pattern == "checks":
        return (u % 1 < 0.5) ^ (v % 1 < 0.5)
    if poster.pattern == "dots":
        return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1
    return np.zeros_like(x, dtype=bool)


def _motif(poster: Poster, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the shape in the middle is."""
    radius = 0.12 + 0.2 * poster.size
    if poster.motif == "circle":
        return x**2 + y**2 < radius**2
    if poster.motif == "square":
        return np.maximum(abs(x), abs(y)) < 0.89 * radius  # of the area of the circle
    return (y < 0.8 * radius) & (y > 2 * abs(x) - 1.45 * radius)


# --- taste -----------------------------------------------------------------------------------------------


def latent(posters: Sequence[Poster]) -> Float[np.ndarray, "poster attribute"]:
    """What users see in posters (`LATENT`), each about -1 to 1. The frame is not among it."""
    rows = []
    for p in posters:
        warm, light = np.cos(2 * np.pi * (p.hue - WARMEST)), 2 * p.light - 1
        busy = (2 * p.density - 1) * (p.pattern != "plain")
        patterns = [float(p.pattern == name) for name in PATTERNS[1:]]
        singles = [warm, light, 2 * p.vivid - 1, busy, *patterns, float(p.motif == "circle"), 2 * p.size - 1]
        rows.append([*singles, warm * light, busy * patterns[0]])
    return np.array(rows)


@dataclass(frozen=True)
class Taste:
    """The truth about the users: stars = level + <weights, latent>."""

    level: Float[np.ndarray, " user"]
    weights: Float[np.ndarray, "user attribute"]

    def stars(self, posters: Sequence[Poster], user: int) -> Float[np.ndarray, " poster"]:
        """What the user would say of each poster, without noise and without the ends of the scale."""
        return self.level[user] + latent(posters) @ self.weights[user]


def _random_taste(n_users: int, rng: np.random.Generator, n_directions: int = 4) -> Taste:
    """A taste with a part that all users share; in the rest they differ along a few directions, as people do."""
    shared, directions = rng.normal(0, 0.2, len(LATENT)), rng.normal(0, 0.25, (n_directions, len(LATENT)))
    return Taste(rng.normal(3.2, 0.3, n_users), shared + rng.normal(size=(n_users, n_directions)) @ directions)


@dataclass(frozen=True)
class Drawings:
    """The domain, whose `plot_text` says what a poster shows; the posters in the same order; and the users' taste."""

    domain: Domain
    posters: list[Poster]
    taste: Taste


def make_drawings(
    n_posters: int = 400, n_users: int = 200, *, per_user: int = 40, noise: float = 0.5, seed: int = 0
) -> Drawings:
    """Draw posters and users at random, and let every user rate some posters.

    Ratings are the true stars plus noise (standard deviation, in stars), rounded to 1, 1.5, ..., 5.

    Raises:
        ValueError: a user is to rate more posters than there are, or none.
    """
    if not 1 <= per_user <= n_posters:
        raise ValueError(f"per_user = {per_user} must be between 1 and the number of posters, {n_posters}")
    rng = np.random.default_rng(seed)
    posters = [random_poster(rng) for _ in range(n_posters)]
    taste = _random_taste(n_users, rng)
    items = rng.random((n_users, n_posters)).argsort(axis=1)[:, :per_user]
    users = np.repeat(np.arange(n_users), per_user)
    true = np.concatenate([taste.stars([posters[i] for i in row], user) for user, row in enumerate(items)])
    stars = np.clip(np.round(2 * (true + rng.normal(0, noise, len(true)))) / 2, 1, 5)
    ratings = pd.DataFrame({"user": users, "item": items.ravel(), "rating": stars})
    return Drawings(Domain("drawings", _table(posters), n_users, ratings), posters, taste)


def _table(posters: Sequence[Poster]) -> pd.DataFrame:
    table = pd.DataFrame({"title": [f"Poster {i}" for i in range(len(posters))], "year": np.nan})
    table["genres"] = [[p.pattern, p.motif] for p in posters]
    return table.assign(plot_text=list(map(str, posters)), plot_source="drawn")


# --- edits -----------------------------------------------------------------------------------------------

Edit = Callable[[Poster], Poster]


def _add(name: str, amount: float) -> Edit:
    def edit(poster: Poster) -> Poster:
        values: dict[str, Any] = {name: float(np.clip(getattr(poster, name) + amount, 0, 1))}
        return replace(poster, **values)

    return edit


def _set(**values: Any) -> Edit:
    return lambda p: replace(p, **values)


def _turn_hue(towards: float) -> Edit:
    """A step of at most a fifth of the colour wheel, the short way round."""
    return lambda p: replace(p, hue=(p.hue + np.clip((towards - p.hue + 0.5) % 1 - 0.5, -0.2, 0.2)) % 1)


EDITS: dict[str, Edit] = {
    "warmer": _turn_hue(WARMEST),
    "cooler": _turn_hue(WARMEST + 0.5),
    "lighter": _add("light", 0.3),
    "darker": _add("light", -0.3),
    "more vivid": _add("vivid", 0.3),
    "paler": _add("vivid", -0.3),
    "denser": _add("density", 0.3),
    "sparser": _add("density", -0.3),
    "no pattern": _set(pattern="plain"),
    "stripes": _set(pattern="stripes"),
    "dots": _set(pattern="dots"),
    "checks": _set(pattern="checks"),
    "circle": _set(motif="circle"),
    "square": _set(motif="square"),
    "triangle": _set(motif="triangle"),
    "larger motif": _add("size", 0.3),
    "smaller motif": _add("size", -0.3),
    "tilt": lambda p: replace(p, tilt=p.tilt + 20),
    "black frame": lambda p: replace(p, frame=min(p.frame + 0.06, 0.18)),
}
"""What may be done to a poster. They change its parameters, not its pixels: the "environment" is exact."""
