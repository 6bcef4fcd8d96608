"""One model on several servers, used as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from helpers.base.storage import CourseError
from helpers.language.prompts import Done, Prompt, Sampling
from helpers.larger_machines.client import PassingError, ServerBackend, answer_all


@dataclass(frozen=True)
class ServerPool:
    """Servers of the same model; each request goes to the one with the fewest in flight relative to its concurrency.

    A server that fails is left alone for a while, and given up after its `attempts`; the others take its requests
    (`client.answer_all`).

    The pool's name, and with it the memo, does not depend on which or how many servers there are: an answer of any
    counts as that of all. Make sure that it is: the same weights, number format, chat template and, if answers must be
    reproducible, the same program in the same version. When one of these changes, change `identity`.

    Attributes:
        servers: with the same `model` and `prefill`, each with its own url.
        identity: what they all run, in words, as in `SmolLM2-135M-Instruct, bfloat16, vLLM 0.11`.

    Raises:
        ValueError: no server, two with one url, or servers of different models.
    """

    servers: tuple[ServerBackend, ...]
    identity: str

    def __post_init__(self) -> None:
        if not self.servers or len({server.url.rstrip("/") for server in self.servers}) < len(self.servers):
            raise ValueError("give one or more servers, each with a url of its own")
        if len({(server.model, server.prefill) for server in self.servers}) > 1:
            raise ValueError("the servers differ in `model` or `prefill`: a pool has one model")
        if not self.identity.strip():
            raise ValueError("say in `identity` what all the servers run: it is part of the memo's keys")

    @property
    def name(self) -> str:
        """The model and what you said of it: the same for 1 or 8 servers."""
        return f"{self.servers[0].model}, {self.identity}"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """As `ServerBackend.generate`, over all servers.

        Raises:
            CourseError: no server answers any more, or one rejects a request; earlier answers are kept.
            ValueError: a prefilled answer, if the servers cannot continue one.
        """
        try:
            answer_all(self.servers, self.servers[0].requests(prompts, sampling, seeds), done)
        except PassingError as fault:
            count = len(self.servers)
            raise CourseError(f"no answer from the pool of {count} servers; the last fault: {fault}") from None

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """Not possible, as `ServerBackend.score`."""
        return self.servers[0].score(prompt, continuations)
