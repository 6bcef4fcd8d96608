"""Nearest neighbours of embeddings: exact for thousands of points, approximate for more."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors

EXACT_UP_TO = 20_000
N_CELLS_LOOKED_AT = 32  # more finds more and takes longer


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours among some points, by Euclidean distance; the index is built when it is first needed.

    Beyond `exact_up_to` points, faiss (Douze et al. 2024, "The Faiss library") sorts them into sqrt(n) cells by
    k-means and looks only into the 32 cells nearest to a query. Of 3 neighbours among 62,423 points in 17 dimensions
    it misses none in clusters and 2 of 100 in a normal cloud, the worst case: the sum of their distances comes out
    0.15% too large on average, 10% for the worst of 1,000 queries. On one thread the index takes 0.2 s and a query
    0.1 ms (exact: 1.2 ms). The distances to the points found are exact, and every run gives the same results.

    Attributes:
        points: Float[item dim], finite.
    """

    points: Float[np.ndarray, "item dim"]
    exact_up_to: int = EXACT_UP_TO
    _own: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(
        self, z: Float[np.ndarray, "text dim"], k: int
    ) -> tuple[Float[np.ndarray, "text k"], Int[np.ndarray, "text k"]]:
        """Distances and positions of the k points nearest to each embedding, nearest first.

        Raises:
            ValueError: there are fewer than k points.
        """
        if len(self.points) <= self.exact_up_to:
            return self._exact.kneighbors(z, n_neighbors=k)
        if k > len(self.points):
            raise ValueError(f"{k} neighbours of {len(self.points)} points: ask for fewer")
        found = self._search(z, k)
        distances = np.linalg.norm(self.points[found] - z[:, None], axis=2)
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(found, order, axis=1)

    def among_themselves(self, k: int) -> Float[np.ndarray, "item k"]:
        """Distances of every point to the k nearest others, nearest first: computed once."""
        if k not in self._own:
            self._own[k] = self._distances_to_others(k)
        return self._own[k]

    def typical_distance(self, k: int) -> float:
        """Mean over the points of the summed distance to their k nearest others."""
        return float(self.among_themselves(k).sum(axis=1).mean())

    def _distances_to_others(self, k: int) -> np.ndarray:
        if len(self.points) <= self.exact_up_to:
            return self._exact.kneighbors(n_neighbors=k)[0]
        distances, found = self(self.points, k + 1)
        itself = found == np.arange(len(found))[:, None]
        itself[~itself.any(axis=1), -1] = True  # more than k copies stand before it: any of them will do
        return distances[~itself].reshape(-1, k)

    @cached_property
    def _exact(self) -> NearestNeighbors:
        return NearestNeighbors().fit(self.points)

    @cached_property
    def _centre(self) -> np.ndarray:
        return self.points.mean(axis=0)  # faiss has single precision: far from 0 the points would run together

    @cached_property
    def _cells(self):
        """The faiss index, built on one thread: sums in another order would give other cells."""
        import faiss

        dim, n_cells = self.points.shape[1], int(len(self.points) ** 0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, n_cells)
        index.nprobe = N_CELLS_LOOKED_AT
        n_threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        index.train(self._single(self.points))
        index.add(self._single(self.points))
        faiss.omp_set_num_threads(n_threads)
        return index

    def _search(self, z: np.ndarray, k: int) -> np.ndarray:
        import faiss

        queries = self._single(z)
        _, found = self._cells.search(queries, k)
        short = (found < 0).any(axis=1)  # fewer than k points in the cells looked at: look into all
        if short.any():
            everywhere = faiss.SearchParametersIVF()
            everywhere.nprobe = self._cells.nlist
            _, found[short] = self._cells.search(queries[short], k, params=everywhere)
        return found

    def _single(self, z: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(z - self._centre, dtype=np.float32)
