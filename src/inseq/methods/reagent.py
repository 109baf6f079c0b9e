"""ReAGent: importance learned from random replacements, until the most important tokens suffice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.methods.baselines import kept
from inseq.requests import Original, Prediction, Rewritten, Score, Target, Variants, WrittenLogits, gather
from inseq.requests.example import Example

N_CANDIDATES = 32
"""How many replacements of each token are proposed; probes choose among them."""

LARGEST_CHANGE = 1 - 1e-6
"""Of a probability: a change of 1 would decide a token's importance for good."""

Replacements = Literal["model", "vocabulary"]


@method("reagent", paper="zhao2024reagent", signed=False, axes=(), reduce_by=(), normalize=False, uses_target=False)
async def reagent(
    x: Example,
    *,
    replacements: Replacements = "model",
    n_runs: int = 4,
    max_probes: int = 16,
    replace_ratio: float = 0.3,
    keep_top_n: int = 5,
    top_k: int = 3,
    seed: int = 0,
) -> Attribution:
    """How important tokens are for the model to write a token again, learned from random replacements.

    Every token's importance begins at random. A probe replaces some tokens: by how much the written token's probability
    falls, the replaced ones gain and the others lose, ``2 artanh(fall)``. A run ends for a step when the model, given the
    most important tokens alone, with all others replaced, has the written token among its first choices. A run's scores are
    the softmax of the importance over what the step has read; they are averaged over the runs that ended so, or over all if
    none did. The diagnostic ``converged`` is the share of the runs that did. The decoder's start is never replaced and
    scores nothing.

    All steps share the probes of a run: a row serves every step. What the most important tokens are differs from step to
    step, so that each probe costs one more row, of the step's own prefix, for every step that goes on.

    Args:
        x: the example.
        replacements: who proposes them: ``"model"``, a decoder's token is drawn from the model's own prediction at its place,
            and others from the vocabulary; or ``"vocabulary"``, all are, each id with equal chance.
        n_runs: how many runs are averaged.
        max_probes: after how many probes a run ends at the latest.
        replace_ratio: the share of tokens that a probe replaces.
        keep_top_n: how many tokens must suffice.
        top_k: how many of the model's choices count as first.
        seed: of the draws.
    """
    for name, value in (("n_runs", n_runs), ("max_probes", max_probes), ("keep_top_n", keep_top_n), ("top_k", top_k)):
        at_least(name, value, 1)
    if not 0 < replace_ratio < 1:
        raise ArgumentError(f"replace_ratio={replace_ratio} must be above 0 and below 1.")
    one_of("replacements", replacements, ("model", "vocabulary"))
    draws = draw_probes(n_runs, max_probes, len(x.features), replace_ratio, seed)
    candidates = await _candidates(x, draws, replacements)
    removable = ~kept(x, include_eos=True).cpu()
    probability = await _probability(x, Original())
    state = draws.start[:, :, None].expand(-1, -1, len(x.steps)).to(probability).clone()
    running = torch.ones(n_runs, len(x.steps), dtype=torch.bool)
    for probe in range(max_probes):
        runs = running.any(1).nonzero()[:, 0]
        replaced = draws.replaced[runs, probe] & removable
        variants = Rewritten(_chosen(candidates, draws.choice[runs, probe]), replaced)
        falls = probability - await _probability(x, variants)
        evidence = 2 * falls.clamp(-LARGEST_CHANGE, LARGEST_CHANGE).atanh()
        signs = torch.where(replaced, 1.0, -1.0).to(evidence)
        state[runs] += (signs[:, :, None] * evidence[:, None]) * running[runs, None]
        running &= ~await _sufficient(
            x, state, running, removable, _chosen(candidates, draws.check[:, probe]), keep_top_n, top_k
        )
        if not running.any():
            break
    open_to = x.seen & removable[:, None]
    importance = state.masked_fill(~open_to, -torch.inf).softmax(1).nan_to_num(0.0)
    counted = torch.where(running.all(0), torch.ones_like(running), ~running).to(importance)
    scores = (importance * counted[:, None]).sum(0) / counted.sum(0)
    return Attribution(scores, {"converged": (~running).to(scores).mean(0)})


@dataclass(frozen=True)
class Draws:
    """All that is random in some runs.

    Attributes:
        start: the importance that tokens begin with.
        replaced: which tokens each probe replaces.
        choice: by which of the candidates.
        check: by which of them tokens are replaced that are not among the most important.
        levels: where in the model's predicted distribution the candidates lie.
        uniform: the candidates from the vocabulary, as a share of its size.
    """

    start: Float[Tensor, "run feature"]
    replaced: Bool[Tensor, "run probe feature"]
    choice: Int[Tensor, "run probe feature"]
    check: Int[Tensor, "run probe feature"]
    levels: Float[Tensor, " candidate"]
    uniform: Float[Tensor, "feature candidate"]


def draw_probes(n_runs: int, n_probes: int, n_features: int, ratio: float, seed: int) -> Draws:
    """Draw everything at once: what a run sees does not depend on when the others end."""
    draws = torch.Generator().manual_seed(seed)
    size = (n_runs, n_probes, n_features)
    return Draws(
        start=torch.rand(n_runs, n_features, generator=draws, dtype=torch.float64),
        replaced=torch.rand(size, generator=draws, dtype=torch.float32) < ratio,
        choice=torch.randint(N_CANDIDATES, size, generator=draws),
        check=torch.randint(N_CANDIDATES, size, generator=draws),
        levels=(torch.arange(N_CANDIDATES) + torch.rand(N_CANDIDATES, generator=draws, dtype=torch.float64)) / N_CANDIDATES,
        uniform=torch.rand(n_features, N_CANDIDATES, generator=draws, dtype=torch.float64),
    )


async def _candidates(x: Example, draws: Draws, replacements: Replacements) -> Int[Tensor, "feature candidate"]:
    """Ids that may stand in a feature's place."""
    sizes = torch.cat([torch.full((side.stop - side.start, 1), x.vocabulary.size(role)) for role, side in x.sides])
    found = (draws.uniform * sizes).long()
    first = x.n_source + 1
    if replacements == "model" and len(x.features) > first:
        positions = torch.arange(len(x.features) - first, device=x.at.device)
        every = replace(x, written=x.features[first:], written_ids=x.ids[first:], at=positions, spans=None)

        def drawn(p: Prediction) -> Float[Tensor, "n candidate"]:
            cumulated = p.logits.cpu().double().softmax(-1).cumsum(-1)
            levels = draws.levels * cumulated[:, -1:]
            return torch.searchsorted(cumulated, levels).clamp_max(p.logits.shape[-1] - 1).to(cumulated)

        found[first:] = (await Score(every, target=Target(drawn, contrast="none", axes=1)))[0].long()
    return found


def _chosen(candidates: Int[Tensor, "feature candidate"], choice: Int[Tensor, "run feature"]) -> Int[Tensor, "run feature"]:
    return candidates.expand(len(choice), -1, -1).gather(2, choice[..., None])[..., 0]


async def _sufficient(
    x: Example,
    state: Float[Tensor, "run feature step"],
    running: Bool[Tensor, "run step"],
    removable: Bool[Tensor, " feature"],
    ids: Int[Tensor, "run feature"],
    keep_top_n: int,
    top_k: int,
) -> Bool[Tensor, "run step"]:
    """Where the most important tokens alone give the written token a high rank."""
    asked = running.any(0).nonzero()[:, 0].tolist()
    requests = []
    for step in asked:
        runs = running[:, step].nonzero()[:, 0]
        open_to = x.seen[:, step] & removable
        importance = state[runs, :, step].masked_fill(~open_to, -torch.inf)
        others = open_to.expand(len(runs), -1).clone()
        others.scatter_(1, importance.topk(min(keep_top_n, len(x.features)), dim=1).indices, False)
        one = x.at_steps([step]).apart()
        requests.append(Score(one, Rewritten(ids[runs], others), target=RANK))
    found = torch.zeros_like(running)
    for step, ranks in zip(asked, await gather(*requests), strict=True):
        found[running[:, step], step] = ranks.amax(1) <= top_k
    return found


async def _probability(x: Example, variants: Variants) -> Float[Tensor, "variant step"]:
    """That of the written token, or of all tokens of a span."""
    return x.by_step(await Score(x.apart(), variants, target=PROBABILITY), 1, torch.prod)


def written_probability(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """The written token's probability."""
    return (p.written - p.normalizer).exp()


def written_rank(p: Prediction) -> Float[Tensor, " n"]:
    """1 where the written token is the model's first choice."""
    return (p.logits > p.written[:, None]).sum(-1).to(p.logits.dtype) + 1


PROBABILITY = Target(written_probability, contrast="none", of_written=True)
RANK = Target(written_rank, contrast="none")
