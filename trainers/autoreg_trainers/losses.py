"""The losses of the paper, on numbers that the model has already given.

Source: Deng et al., "Following the Autoregressive Nature of LLM Embeddings via
Compression and Alignment", EMNLP 2025 (arXiv 2502.11401).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

AlignmentForm = Literal["log_ratio", "log_sigmoid", "kl", "js"]
ALIGNMENT_FORMS: tuple[str, ...] = get_args(AlignmentForm)

SATURATED = 0.025
"""Below a tenth of its largest value, 1/4, the sigmoid's slope counts as lost."""


def alignment_score(distance: Tensor, beta: float, form: AlignmentForm) -> Tensor:
    """Return S1, how well the query's vectors generate d+ beside d+'s own vectors.

    ``-sigmoid(beta * distance)``, or ``log sigmoid(-beta * distance)`` for the form
    ``log_sigmoid``. The distance of ``log_ratio`` and ``log_sigmoid`` is
    ``|log p(d+ | e_q) - log p(d+ | e_d+)|``; that of ``kl`` and ``js`` is the
    divergence between the two next-token distributions along d+.

    Parameters
    ----------
    distance
        At least 0, in nats (per token if the likelihoods are), [n].
    beta
        Steepness of the sigmoid.
    form
        One of `ALIGNMENT_FORMS`.

    Returns
    -------
    Tensor
        [n]; larger is better.
    """
    if form == "log_sigmoid":
        return logsigmoid(-beta * distance)
    return -torch.sigmoid(beta * distance)


def separation_score(positive_gain: Tensor, negative_gain: Tensor, beta: float) -> Tensor:
    """Return S2, how far d+ is from having gained more than d- since the reference.

    ``-sigmoid(beta * [(log p(d+|e_q) - log p_ref(d+|e_q)) - (log p(d-|e_q) - log
    p_ref(d-|e_q))])``. The reference is subtracted, as the paper prints it.

    Parameters
    ----------
    positive_gain, negative_gain
        Log-likelihood minus the reference's, in nats; broadcast against each other.
    beta
        Steepness of the sigmoid.

    Returns
    -------
    Tensor
        Smaller is better.
    """
    return -torch.sigmoid(beta * (positive_gain - negative_gain))


def cda_loss(alignment: Tensor, separation: Tensor, tau: float) -> Tensor:
    """Return L_CDA = -log(exp(S1/tau) / (exp(S1/tau) + sum_i exp(S2_i/tau))) of each row.

    Parameters
    ----------
    alignment
        S1, [n].
    separation
        S2 of each negative, [n, m]; -inf where a row has fewer than m.
    tau
        Temperature.

    Returns
    -------
    Tensor
        [n].
    """
    scores = torch.cat([alignment[:, None], separation], dim=1) / tau
    return scores.logsumexp(dim=1) - scores[:, 0]


def info_nce(similarities: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Return InfoNCE of each row (van den Oord et al. 2018).

    Parameters
    ----------
    similarities
        Of each query to each candidate, [n, c]; -inf for what is no candidate.
    positives
        The column of each row's positive, [n].
    tau
        Temperature.

    Returns
    -------
    Tensor
        [n].
    """
    return cross_entropy(similarities / tau, positives, reduction="none")


def listwise_divergence(teacher: Tensor, similarities: Tensor, tau: float) -> Tensor:
    """Return KL(softmax(teacher / tau) || softmax(similarities / tau)) of each row, in nats.

    Up to a constant the listwise loss of Cao et al. (2007, ListNet), whose lists are here a
    query's similarities to all candidates, as a teacher and as the student see them.

    Parameters
    ----------
    teacher, similarities
        Of each query to each candidate, [n, c].
    tau
        Temperature.

    Returns
    -------
    Tensor
        [n].
    """
    wanted = (teacher / tau).log_softmax(dim=1)
    found = (similarities / tau).log_softmax(dim=1)
    return kl_div(found, wanted, reduction="none", log_target=True).sum(dim=1)


def cosine_error(teacher: Tensor, similarities: Tensor) -> Tensor:
    """Return the mean squared difference between two lists of similarities, row by row.

    The divergence of lists at a low temperature tells only the nearest candidates apart:
    this one also says how far apart all others are.

    Parameters
    ----------
    teacher, similarities
        Of each query to each candidate, [n, c].

    Returns
    -------
    Tensor
        [n].
    """
    return (similarities - teacher).square().mean(dim=1)


def saturated(argument: Tensor) -> Tensor:
    """Tell where a sigmoid's slope at `argument` is too small to learn from."""
    value = torch.sigmoid(argument)
    return value * (1 - value) < SATURATED
