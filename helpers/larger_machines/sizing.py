"""What larger models and machines would cost: tokens, memory and hours, by formulas that are checked on this machine.

Work is counted in multiplications and bytes, and divided by what a device does per second times the share of that
which real runs reach (`Reached`). The shares are measured with a small model; `measured_runs` then predicts other runs,
of other sizes and of another model, and says how far off it was.

- A forward pass takes 2 FLOPs per weight and token, and attention 4 per head, dimension, token and token attended to.
- A step of an adapter takes a forward pass, and a backward pass as long: the gradient of the activations, but not that
  of frozen weights. That is two thirds of a step in which all weights learn; with recomputed activations it is three
  forward passes.
- Prompts are bound by multiplications. A new token reads all weights and the keys and values so far as well, and the
  two times are added, as if they never overlapped.
- Activations kept for the backward pass, in bytes per token and block: see `Shape.kept_bytes`.

Parallel work: a model that fits one accelerator is copied to all, and they share rows (of rewrites, of a batch) until
each has one; more of them are idle. A model that does not fit is split over as few as hold it, up to 8: for rewrites
evenly (by a server with tensor parallelism; its communication is left out), for edits block by block
(`helpers.language.sharding`), with the time to gather the blocks added. Shares measured on a CPU are a guess for an
accelerator: measure there before you buy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import psutil
import torch
from torch import nn
from transformers import PreTrainedConfig

from helpers.are import experiment as are
from helpers.base.compute import one_thread
from helpers.eagle import experiment as eagle
from helpers.eagle.actions import BANK
from helpers.eagle.environment import HORIZON
from helpers.language.adapters import first_adapted
from helpers.language.engine import attention, decoding, grouping
from helpers.language.models import LoadedModel, language_model
from helpers.language.prompts import Sampling
from helpers.language.states import read, states_below

GB, HOUR = 1e9, 3600.0
SPLIT = 8  # accelerators of one machine, over which a model may be split
FILLED = 0.9  # of an accelerator's memory that may be used; allocators need the rest


# Models ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer with a gated MLP, as its configuration gives them.

    Attributes:
        norms: normalisations per block over `hidden`; head_norms: over `head_dim` (queries and keys).
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = True
    norms: int = 2
    head_norms: int = 0

    @property
    def block(self) -> int:
        """Weights of one block."""
        projections = 2 * self.head_dim * (self.heads + self.kv_heads) + 3 * self.intermediate
        return self.hidden * (projections + self.norms) + self.head_norms * self.head_dim

    @property
    def embeddings(self) -> int:
        """Weights outside the blocks, the last norm included."""
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layers * self.block + self.embeddings

    def kv_bytes(self, itemsize: int = 2) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize

    def flops(self, tokens: float, attended: float, layers: int | None = None) -> float:
        """FLOPs of a forward pass of some tokens, each attending to so many, through some blocks (all if not given)."""
        of_token = 2 * self.block + 4 * self.heads * self.head_dim * attended
        return tokens * of_token * (self.layers if layers is None else layers)

    def output_flops(self, tokens: float) -> float:
        """FLOPs of the output weights."""
        return 2 * tokens * self.vocab * self.hidden

    def kept_bytes(self) -> int:
        """What a block with an adapter keeps of a token for the backward pass, in bfloat16 with a float32 adapter.

        The inputs of the norms and of the adapted layers (q, v, up, down) in float32, queries, keys, values and
        mixed values, and of the MLP the gate, its activation and the upper half.
        """
        heads = (self.heads + self.kv_heads) * self.head_dim
        norms = 4 * self.norms * self.hidden + (4 * heads if self.head_norms else 0)
        return norms + 12 * self.hidden + 4 * heads + 10 * self.intermediate

    def adapter(self, layers: int, rank: int = 8) -> int:
        """Weights of an adapter on q, v, up and down of some blocks."""
        inner = (self.heads + self.kv_heads) * self.head_dim + 2 * self.intermediate
        return layers * rank * (4 * self.hidden + inner)


# Public configurations. Of Gemma 3 12B the text part, without the 0.4 billion weights that look at pictures.
SHAPES = (
    Shape("SmolLM2-1.7B", 2048, 24, 32, 32, 64, 8192, 49152),
    Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256, tied=False),
    Shape("Gemma-3-12B", 3840, 48, 16, 8, 256, 15360, 262208, norms=4, head_norms=2),
    Shape("Llama-3.1-70B", 8192, 80, 64, 8, 128, 28672, 128256, tied=False),
)


def shape_of(name: str, config: PreTrainedConfig) -> Shape:
    """The shape of a model of the Llama or Gemma 3 family by its configuration."""
    text = config.get_text_config()
    gemma = text.model_type.startswith("gemma3")
    return Shape(
        name,
        text.hidden_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        text.num_key_value_heads,
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        text.intermediate_size,
        text.vocab_size,
        tied=text.tie_word_embeddings,
        norms=4 if gemma else 2,
        head_norms=2 if gemma else 0,
    )


# Devices -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """What a device can do at best.

    Attributes:
        flops: per second, dense, in the dtype that is used; bandwidth: of its memory in bytes per second.
        memory: in bytes; link: bytes per second in from its neighbours; itemsize: bytes of a number.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    link: float = float("inf")
    itemsize: int = 2


H100 = Device("H100 SXM", 989e12, 3.35e12, 80e9, 450e9)  # NVIDIA's data sheet, dense bfloat16, NVLink one way


@dataclass(frozen=True)
class Reached:
    """Shares of a device's best that runs reach: FLOPs on prompts, bandwidth on new tokens, FLOPs in a step."""

    prompts: float
    tokens: float
    step: float


# SmolLM2-135M on one thread of a CPU with AVX-512 and bfloat16 (`measured_runs`). Its other runs were predicted to take
# 0.94 to 1.07 of the time that they took, and those of Gemma 3 270M 1.08 to 1.16.
MEASURED = Reached(prompts=0.70, tokens=0.18, step=0.48)


# Runs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """Answers decoded together: `shared` tokens of prompt in common, `own` ones each, and `new` ones."""

    rows: int
    shared: int
    own: int
    new: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return self.shared + self.rows * (self.own + self.new)

    def memory(self, shape: Shape, itemsize: int = 2) -> float:
        """Bytes of keys and values."""
        return self.tokens * shape.kv_bytes(itemsize)

    def seconds(self, shape: Shape, device: Device, reached: Reached) -> float:
        """Time on one device."""
        before = self.shared + self.own / 2
        prompts = shape.flops(self.shared, self.shared / 2) + shape.flops(self.rows * self.own, before)
        attended = self.shared + self.own + self.new / 2
        computed = shape.flops(self.rows * self.new, attended) + shape.output_flops(self.rows * self.new)
        cached = self.memory(shape, device.itemsize) - self.rows * self.new / 2 * shape.kv_bytes(device.itemsize)
        moved = self.new * (shape.parameters * device.itemsize + cached)
        return (prompts + computed) / (device.flops * reached.prompts) + moved / (device.bandwidth * reached.tokens)


@dataclass(frozen=True)
class Step:
    """One step of an adapter: `texts` of `length` tokens each, through the blocks from the first with an adapter on.

    Attributes:
        layers: those blocks, or none for all but the lower half (`experiment.with_late_adapter`).
        places: tokens in all at which the next one is predicted, by the base model and the edited one.
        recomputed: activations are computed again in the backward pass.
    """

    texts: int
    length: int
    layers: int | None = None
    places: int = 0
    recomputed: bool = False

    def upper(self, shape: Shape) -> int:
        """Number of blocks that are computed."""
        return shape.layers - shape.layers // 2 + 1 if self.layers is None else self.layers

    def memory(self, shape: Shape) -> float:
        """Bytes of activations, logits (float32, three copies), and of the adapter with its gradients and Adam."""
        tokens, layers = self.texts * self.length, self.upper(shape)
        kept = shape.kept_bytes() + 2 * shape.hidden * layers if self.recomputed else shape.kept_bytes() * layers
        return tokens * kept + 12 * self.places * shape.vocab + 16 * shape.adapter(layers)

    def seconds(self, shape: Shape, device: Device, reached: Reached) -> float:
        """Time on one device, without communication."""
        once = shape.flops(self.texts * self.length, self.length / 2, self.upper(shape))
        outputs = 3 * shape.output_flops(self.places)  # base, edited, and the gradient
        return ((3 if self.recomputed else 2) * once + outputs) / (device.flops * reached.step)


# Work --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentWork:
    """Rewrites of the EAGLE half: every action on every training start, then agents of so many seeds, then tests.

    Tokens are means of the course's prompts with SmolLM2's tokenizer; other tokenizers differ by some tenth.
    """

    sizes: eagle.SteeringPlan = eagle.STEERING_PLANS["full"]
    actions: int = len(BANK)
    horizon: int = HORIZON
    shared: int = 266
    own: int = 59
    new: int = 38

    @property
    def calls(self) -> list[tuple[int, int, int]]:
        """(rows that can be answered at once, how often one after the other, runs beside each other)."""
        training, seeds = self.sizes.training, len(self.sizes.seeds)
        return [
            (self.sizes.train_items * self.actions, 1, 1),
            (training.episodes, training.iterations * self.horizon, seeds),
            (2 * self.sizes.test_items * self.sizes.budget, 1, seeds),
        ]

    @property
    def rewrites(self) -> int:
        """Answers of the environment in all."""
        return sum(rows * times * runs for rows, times, runs in self.calls)

    @property
    def tokens(self) -> int:
        """Tokens read and written; the beginning of all prompts counts once."""
        return self.shared + self.rewrites * (self.own + self.new)

    def rollout(self, rows: int) -> Rollout:
        """Some rewrites together."""
        return Rollout(rows, self.shared, self.own, self.new)

    def hours(self, shape: Shape, device: Device, replicas: int, reached: Reached) -> float:
        """Time with so many copies of the model, each of which decodes at most `grouping.ROWS` rows at once."""
        seconds = 0.0
        for rows, times, runs in self.calls:
            beside = min(runs, replicas)
            each = _share(rows, replicas // beside)
            full, rest = divmod(each, grouping.ROWS)
            once = full * self.rollout(grouping.ROWS).seconds(shape, device, reached)
            once += self.rollout(rest).seconds(shape, device, reached) if rest else 0.0
            seconds += times * _share(runs, beside) * once
        return seconds / HOUR


@dataclass(frozen=True)
class EditFit:
    """How an edit is placed: processes of one edit, whether blocks are sharded, and bytes on each of them."""

    processes: int
    sharded: bool
    step: Step
    memory: float


@dataclass(frozen=True)
class EditWork:
    """Edits towards refusing, one per seed: steps, states read after every round, and answers to begin with.

    Tokens are means of the course's prompts. Every process reads all states: that part gains nothing from more.
    """

    seeds: int = len(are.PLANS["full"].seeds)
    rounds: int = are.ROUNDS["full"]
    steps: int = 20
    batch: int = 8
    read: int = 278  # plain prompts of the training and stop parts
    plain: int = 47
    retained: int = 52
    places: int = are.RETAINED_TOKENS
    answers: Rollout = Rollout(2 * (220 + 60 + 120) + 300, 0, 50, 22)

    def step(self, processes: int, recomputed: bool = False) -> Step:
        """What one process does in a step."""
        texts = 2 * self.batch // processes
        places = self.batch // processes * self.places
        return Step(texts, (self.plain + self.retained) // 2, places=places, recomputed=recomputed)

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        once = self.rounds * (self.steps * self.batch * (self.plain + self.retained) + self.read * self.plain)
        return self.seeds * once + self.answers.tokens

    def hours(self, shape: Shape, device: Device, fit: EditFit, number: int, reached: Reached) -> float:
        """Time on `number` devices: edits beside each other, each on `fit.processes`, then the answers on one copy."""
        gathers = fit.step.recomputed + 2 if fit.sharded else 0
        gathered = gathers * shape.layers * shape.block * device.itemsize / device.link
        once = fit.step.seconds(shape, device, reached) + gathered
        reading = shape.flops(self.read * self.plain, self.plain / 2) / (device.flops * reached.prompts)
        edit = self.rounds * (self.steps * once + reading)
        batch = replace(self.answers, rows=min(self.answers.rows, grouping.ROWS))
        answers = self.answers.rows / batch.rows * batch.seconds(shape, device, reached)
        return (
            _share(self.seeds, max(1, number // fit.processes)) * edit + answers / (fit.processes if fit.sharded else 1)
        ) / HOUR


def environment_memory(shape: Shape, work: AgentWork, split: int = 1) -> float:
    """Bytes on each of `split` accelerators: weights, and keys and values of the rows that are decoded together."""
    return (2 * shape.parameters + work.rollout(grouping.ROWS).memory(shape)) / split


def environment_split(shape: Shape, device: Device, work: AgentWork, number: int) -> int | None:
    """Over how many of `number` accelerators the environment's model is split; None if it does not fit."""
    return next(
        (s for s in _powers(number) if environment_memory(shape, work, s) <= FILLED * device.memory),
        None,
    )


def edit_fit(shape: Shape, device: Device, work: EditWork, number: int) -> EditFit | None:
    """How an edit is placed on `number` accelerators: whole models if they fit, else sharded; None if neither does."""
    processes = max(_powers(min(number, work.batch)))
    for sharded, recomputed in ((False, False), (False, True), (True, False), (True, True)):
        step = work.step(processes, recomputed)
        inside = 2 * shape.layers * shape.block / (processes if sharded else 1)
        whole = 2 * 2 * shape.block if sharded else 0  # the block that computes, and the one that is being gathered
        memory = inside + whole + 2 * shape.embeddings + step.memory(shape)
        if memory <= FILLED * device.memory:
            return EditFit(processes, sharded, step, memory)
    return None


def _share(rows: int, among: int) -> int:
    return -(-rows // max(1, among))


def _powers(limit: int) -> list[int]:
    return [n for n in (1, 2, 4, 8) if n <= min(limit, SPLIT)]


PAPER_STEPS = 30_000  # Tennenholtz et al. 2024


def sizing_table(
    shapes: Iterable[Shape] = SHAPES,
    numbers: Sequence[int] = (1, 8, 64),
    device: Device = H100,
    reached: Reached = MEASURED,
    agent: AgentWork = AgentWork(),
    edit: EditWork = EditWork(),
) -> pd.DataFrame:
    """One row per model and number of accelerators: memory on each, tokens and hours; empty where it does not fit.

    `long agent` is one agent with as many iterations as the paper has steps, with a small network as its policy. (The
    paper trains a language model as policy, which costs more than the rewrites.)
    """
    training = replace(agent.sizes.training, iterations=PAPER_STEPS)
    long = replace(agent, sizes=replace(agent.sizes, training=training, seeds=(0,)))
    rows = [_row(shape, number, device, reached, agent, long, edit) for shape in shapes for number in numbers]
    return pd.DataFrame(rows).set_index(["model", "accelerators"])


def _row(
    shape: Shape, number: int, device: Device, reached: Reached, agent: AgentWork, long: AgentWork, edit: EditWork
) -> dict:
    split, fit = environment_split(shape, device, agent, number), edit_fit(shape, device, edit, number)
    row = {"model": shape.name, "accelerators": number, "billion weights": shape.parameters / 1e9}
    nan = float("nan")
    row |= {"environment split": split or nan, "environment GB": nan, "agent hours": nan, "long agent hours": nan}
    if split:
        part = replace(device, flops=split * device.flops, bandwidth=split * device.bandwidth)
        row["environment GB"] = environment_memory(shape, agent, split) / GB
        row["agent hours"] = agent.hours(shape, part, number // split, reached)
        row["long agent hours"] = long.hours(shape, part, number // split, reached)
    row |= {"edit": "does not fit", "edit GB": nan, "edit hours": nan}
    if fit:
        how = f"{fit.processes} x {'a share' if fit.sharded else 'whole'}{', recomputed' * fit.step.recomputed}"
        row |= {"edit": how, "edit GB": fit.memory / GB}
        row["edit hours"] = edit.hours(shape, device, fit, number, reached)
    millions = {"agent": agent, "long agent": long, "edit": edit}
    return row | {f"{name} million tokens": work.tokens / 1e6 for name, work in millions.items()}


# Checked on this machine -------------------------------------------------------------------------------------------

Clock = Callable[[], float]


def measured_device(device: torch.device, dtype: torch.dtype, clock: Clock = time.process_time) -> Device:
    """What a matrix product and a copy of memory reach on this machine (one thread of a CPU)."""
    size = 2048 if device.type == "cpu" else 8192
    rows, weight = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    source = torch.ones(1 << 26, dtype=dtype, device=device)
    copy = torch.empty_like(source)
    product = _shortest(clock, lambda: nn.functional.linear(rows, weight)[0, 0].item())
    moved = _shortest(clock, lambda: copy.copy_(source)[0].item())
    cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total
    return Device("here", 2 * size**3 / product, 2 * source.nbytes / moved, memory, itemsize=dtype.itemsize)


def rollout_seconds(lm: LoadedModel, work: Rollout, clock: Clock = time.process_time) -> float:
    """Time of a rollout of random tokens by the course's engine."""
    rows = [(*_tokens(lm, work.shared, 0), *_tokens(lm, work.own, 1 + row)) for row in range(work.rows)]
    attention.forget_prefixes()
    sampling = Sampling(max_new_tokens=work.new, temperature=0.8)
    start = clock()
    decoding.decode_prompts(lm.model, rows, sampling, range(work.rows), set(), lambda *_: None)
    return clock() - start


def step_seconds(lm: LoadedModel, work: Step, clock: Clock = time.process_time) -> float:
    """Time of the forward and backward pass of a step on random tokens, read where the course's edits are."""
    at = are.late(lm, positions=1)
    model = are.with_late_adapter(lm, at).model
    texts = [_tokens(lm, work.length, row) for row in range(work.texts)]
    below = states_below(model, texts, first_adapted(model) - 1)
    return _shortest(clock, lambda: read(model, texts, at, below).square().mean().backward())


def _tokens(lm: LoadedModel, count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(lm.model.config.get_text_config().vocab_size, (count,), generator=generator).tolist())


def _shortest(clock: Clock, work: Callable[[], object], times: int = 2) -> float:
    work()  # the first call of anything is slower
    seconds = []
    for _ in range(times):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


CALIBRATION = (Rollout(16, 256, 80, 1), Rollout(16, 256, 80, 32), Step(8, 40))
CHECKS = (Rollout(40, 256, 80, 16), Rollout(16, 64, 160, 24), Step(4, 40), Step(8, 100))
SECOND_CHECKS = (Rollout(16, 256, 80, 16), Step(8, 40))


def calibrated(shape: Shape, device: Device, prompts: float, rollout: float, step: float) -> Reached:
    """The shares with which the formulas give the seconds of the three runs of `CALIBRATION`."""
    one = Reached(1.0, float("inf"), 1.0)
    first, long, edit = CALIBRATION
    share = first.seconds(shape, device, one) / prompts
    # The first run writes a token too; what its weights cost to read is small beside the prompts.
    left = rollout - long.seconds(shape, device, replace(one, prompts=share))
    moved = long.seconds(shape, device, Reached(float("inf"), 1.0, 1.0))
    return Reached(share, moved / left, edit.seconds(shape, device, one) / step)


def measured_runs(
    lm: LoadedModel | None = None, second: LoadedModel | None = None, clock: Clock = time.process_time
) -> tuple[Reached, pd.DataFrame]:
    """Time a few runs here: three to find the shares by, and others that are predicted with them.

    Takes 40 seconds of one thread for SmolLM2-135M and Gemma 3 270M.

    Args:
        lm: SmolLM2 if not given; second: another model, of which all runs are predicted.
        clock: `time.perf_counter` on an accelerator.

    Returns:
        The shares, and one row per run: model, run, seconds measured and predicted, their ratio (predicted over
        measured), and whether it was one of the three.
    """
    lm = lm or language_model()
    with one_thread():
        device = measured_device(lm.model.device, lm.model.dtype, clock)
        shape = shape_of("first", lm.model.config)
        rollout_seconds(lm, Rollout(2, 16, 16, 2), clock)
        seconds = [_measured(lm, run, clock) for run in CALIBRATION]
        reached = calibrated(shape, device, *seconds)
        rows = [("first", run, s, shape, True) for run, s in zip(CALIBRATION, seconds, strict=True)]
        rows += [("first", run, _measured(lm, run, clock), shape, False) for run in CHECKS]
        if second:
            other = shape_of("second", second.model.config)
            rows += [("second", run, _measured(second, run, clock), other, False) for run in SECOND_CHECKS]
    return reached, pd.DataFrame(
        {
            "model": model,
            "run": str(run),
            "measured": measured,
            "predicted": (predicted := run.seconds(shape, device, reached)),
            "ratio": predicted / measured,
            "calibration": known,
        }
        for model, run, measured, shape, known in rows
    )


def _measured(lm: LoadedModel, run: Rollout | Step, clock: Clock) -> float:
    return rollout_seconds(lm, run, clock) if isinstance(run, Rollout) else step_seconds(lm, run, clock)
