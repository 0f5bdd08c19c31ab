"""The method written plainly, as an oracle: float64, one row at a time, full logits, one graph.

Nothing of `autoreg_trainers` and nothing of the model's own passes is used: the
base is read from its folder, the trainable numbers are copied, LoRA is added up
by hand, and every loss is the formula of Deng et al. 2025 in loops.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.adaptation import trainable

TEXTS = [
    "A class is a template.",
    "The raise statement re-raises the active exception, if there is one to be raised again.",
    "Yes",
    "An assignment expression sometimes called a named expression gives a value to a name. " * 2,
    "What ends a text? <eos> and <bos><eos> are text here.",
    "漢字 🙂 café",
    "Objects are abstractions for data; all data in a program is represented by objects.",
    "for i in range(10): print(i)",
    "Lists may be nested.",
    "Dictionaries keep the order in which keys came.",
    "Numbers are immutable: once created their value never changes. " * 3,
    "import this",
]


class ExactNorm(nn.Module):
    """RMSNorm without the detour through float32 that the models' own makes."""

    def __init__(self, norm: nn.Module, *, offset: float) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        self.offset = offset

    def forward(self, states):
        scaled = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.eps)
        return scaled * (self.offset + self.weight)


def exact_base(folder: Path, dtype=torch.float64):
    """Load the base, frozen, in float64."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(dtype)
    for name, module in list(base.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            offset = 1.0 if "Gemma" in type(module).__name__ else 0.0
            base.set_submodule(name, ExactNorm(module, offset=offset))
    return base.requires_grad_(False).eval()


class Plain:
    """A model's copy, and what it gives.

    Attributes
    ----------
    parameters
        A float64 leaf for each trainable parameter of the model, by its name there.
    """

    def __init__(self, model: AutoRegModel, folder: Path) -> None:
        self.base = exact_base(folder)
        self.body = self.base.get_decoder()
        self.tokenizer = model.backbone.tokenizer
        self.config = model.config
        self.parameters = {
            name: value.detach().double().clone().requires_grad_()
            for name, value in model.named_parameters()
            if value.requires_grad
        }
        self.neck = {
            name: self.parameters.get(f"neck.{name}", value.detach().double())
            for name, value in model.neck.state_dict().items()
        }
        self.scaling = 0.0
        if isinstance(model.backbone.language_model, PeftModel):
            (settings,) = model.backbone.language_model.peft_config.values()
            self.scaling = settings.lora_alpha / settings.r

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def encoder_weights(self):
        """The encoder's weights by name in the body: the base's, changed by what is trained."""
        weights = dict(self.body.named_parameters())
        for name, value in self.parameters.items():
            if name.startswith("tuned_model."):
                weights[name.removeprefix("tuned_model.model.")] = value
            elif ".lora_A." in name:
                other = self.parameters[name.replace(".lora_A.", ".lora_B.")]
                place = name.partition("base_model.model.model.")[2].partition(".lora_A")[0]
                weights[f"{place}.weight"] = (
                    weights[f"{place}.weight"] + self.scaling * other @ value
                )
        return weights

    def encode(self, text: list[int], suffix: list[int]):
        """E of ``<bos> text suffix c_1 .. c_k``, [k, d]."""
        weights = self.encoder_weights()
        ids = torch.tensor([self.tokenizer.bos_token_id, *text, *suffix])
        embedding = {"weight": weights["embed_tokens.weight"]}
        vectors = functional_call(self.body.embed_tokens, embedding, ids)
        inputs = torch.cat([vectors, self.neck["compress_tokens"]])[None]
        states = functional_call(self.body, weights, (), {"inputs_embeds": inputs})
        return states.last_hidden_state[0, -len(self.neck["compress_tokens"]) :]

    def query(self, row):
        """E of a row's query; a text like its positive is read as one."""
        if row.get("symmetric"):
            return self.document(row["query"])
        return self.encode(row["query"], self.ids("\n" + self.config.query_instruction))

    def document(self, text: list[int]):
        return self.encode(text, self.ids("\n" + self.config.document_instruction))

    def bridge(self, latents):
        return (
            self.neck["bridge_start"]
            + (latents - self.neck["bridge_center"]) @ self.neck["bridge_matrix"]
        )

    def distributions(self, prefix, target: list[int]):
        """Log D(. | prefix, t_<i) for each token of ``target <eos>``, [N, V]."""
        vectors = self.base.get_input_embeddings()(torch.tensor(target, dtype=torch.long))
        logits = self.base(inputs_embeds=torch.cat([prefix, vectors])[None]).logits[0]
        return logits.double().log_softmax(-1)[-len(target) - 1 :]

    def log_likelihood(self, prefix, target: list[int]):
        """Log p(target <eos> | prefix)."""
        table = self.distributions(prefix, target)
        ids = [*target, self.tokenizer.eos_token_id]
        return sum((table[i, token] for i, token in enumerate(ids)), torch.zeros(()).double())

    def no_context(self, target: list[int]):
        start = torch.tensor([self.tokenizer.bos_token_id])
        return self.log_likelihood(self.base.get_input_embeddings()(start), target)

    def compression(self, rows, distillation: float = 0.0):
        """L_IC, summed over all tokens; with a share of KL(D(. | context) || D(. | e))."""
        loss = torch.zeros(()).double()
        for row in rows:
            prefix = self.bridge(self.encode(row["context"], row["suffix"]))
            likelihood = -self.log_likelihood(prefix, row["target"])
            text = torch.tensor([self.tokenizer.bos_token_id, *row["context"], *row["suffix"]])
            teacher = self.distributions(self.base.get_input_embeddings()(text), row["target"])
            distance = kl(teacher, self.distributions(prefix, row["target"]))
            loss = loss + distillation * distance + (1 - distillation) * likelihood
        return loss

    def alignment(
        self, rows, *, form, beta, tau, reduction, in_batch=0, contrast=(0.0, 1.0), compress=0.0
    ):
        """L_CDA, summed over rows; with InfoNCE (weight, temperature) and L_IC beside it."""
        weight, contrastive_tau = contrast
        queries = [self.query(row) for row in rows]
        documents = [self.document(row["positive"]) for row in rows]
        total = torch.zeros(()).double()
        for i, row in enumerate(rows):

            def reduced(value, target):
                return value / (len(target) + 1) if reduction == "mean" else value

            def gain(target, reference, behind=queries[i], reduced=reduced):
                score = self.log_likelihood(self.bridge(behind), target)
                return reduced(score - reference, target)

            positive = row["positive"]
            given_query = self.distributions(self.bridge(queries[i]), positive)
            given_own = self.distributions(self.bridge(documents[i]), positive)
            if form == "kl":
                distance = kl(given_own, given_query)
            elif form == "js":
                distance = js(given_own, given_query)
            else:
                own = self.log_likelihood(self.bridge(documents[i]), positive)
                distance = abs(self.log_likelihood(self.bridge(queries[i]), positive) - own)
            sigmoid = 1 / (1 + torch.exp(beta * reduced(distance, positive)))
            # sigmoid(-x), so that S1 = -sigmoid(x) = sigmoid(-x) - 1.
            first = torch.log(sigmoid) if form == "log_sigmoid" else sigmoid - 1

            gained = gain(positive, row["reference_positive"])
            negatives = list(zip(row["negatives"], row["reference_negatives"], strict=True))
            others = further(rows, row)
            cosines = [self.cosine(queries[i], e).item() for e in documents]
            others.sort(key=lambda j, cosines=cosines: -cosines[j])
            for j in others[:in_batch]:
                prefix = torch.tensor(row["reference_prefix"]).double().reshape(queries[i].shape)
                with torch.no_grad():
                    reference = self.log_likelihood(prefix, rows[j]["positive"])
                negatives.append((rows[j]["positive"], reference))
            terms = [torch.exp(first / tau)]
            for target, reference in negatives:
                second = -1 / (1 + torch.exp(-beta * (gained - gain(target, reference))))
                terms.append(torch.exp(second / tau))
            total = total - torch.log(terms[0] / sum(terms))
            if weight:
                total = total + weight * self.contrast(rows, row, contrastive_tau)
            if compress:
                latents = [queries[i]] if form in ("kl", "js") else [queries[i], documents[i]]
                likelihoods = [self.log_likelihood(self.bridge(e), positive) for e in latents]
                nll = -sum(likelihoods) / len(likelihoods) / (len(positive) + 1)
                total = total + compress * nll
        return total

    def contrastive(self, rows, tau: float):
        """InfoNCE, summed over rows; candidates are all rows' positives and negatives."""
        return sum(self.contrast(rows, row, tau) for row in rows)

    def contrast(self, rows, row, tau: float):
        """InfoNCE of one row."""
        query = self.query(row)
        candidates = [self.document(row["positive"])]
        texts = [x["positive"] for x in rows] + [ids for x in rows for ids in x["negatives"]]
        candidates += [self.document(ids) for ids in texts if not known(rows, row, ids)]
        return nce([self.cosine(query, e) for e in candidates], tau)

    def divergence(self, rows, taught, tau: float):
        """KL(teacher || student) of the shares of similarity, summed over rows."""
        total = torch.zeros(()).double()
        for theirs, ours in self.similarities(rows, taught):
            wanted, found = shares(theirs, tau), shares(ours, tau)
            total = total + sum(p * torch.log(p / q) for p, q in zip(wanted, found, strict=True))
        return total

    def cosine_error(self, rows, taught):
        """The mean square of what teacher's and student's cosines differ by, summed over rows."""
        total = torch.zeros(()).double()
        for theirs, ours in self.similarities(rows, taught):
            squares = [(t - s) ** 2 for t, s in zip(theirs, ours, strict=True)]
            total = total + sum(squares) / len(squares)
        return total

    def similarities(self, rows, taught):
        """Yield the teacher's cosines of each row's query to all candidates, and the student's.

        `taught` holds the teacher's vectors of each row's query, positive and negatives.
        Candidates are all rows' positives and negatives, whatever they answer.
        """
        texts = [row["positive"] for row in rows]
        texts += [ids for row in rows for ids in row["negatives"]]
        vectors = [own[1] for own in taught] + [vector for own in taught for vector in own[2:]]
        documents = [self.document(ids) for ids in texts]
        for row, own in zip(rows, taught, strict=True):
            query = self.query(row)
            theirs = [own[0] @ vector for vector in vectors]
            yield theirs, [self.cosine(query, e) for e in documents]

    def cosine(self, first, second):
        return cosine_similarity(self.pooled(first), self.pooled(second), dim=0)

    def pooled(self, latents):
        return {"mean": latents.mean(0), "last": latents[-1], "concat": latents.flatten()}[
            self.config.pooling
        ]

    def gradients(self, loss) -> dict[str, torch.Tensor]:
        """The loss's gradient by each trainable parameter; zeros where it does not reach."""
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(self.parameters.items(), found, strict=True)
        }


def kl(log_p, log_q):
    """KL(P || Q), summed over positions."""
    return (log_p.exp() * (log_p - log_q)).sum()


def js(log_p, log_q):
    """Jensen-Shannon's divergence, summed over positions."""
    middle = ((log_p.exp() + log_q.exp()) / 2).log()
    return (kl(log_p, middle) + kl(log_q, middle)) / 2


def nce(similarities, tau):
    """-log of the first similarity's share."""
    return -torch.log(shares(similarities, tau)[0])


def shares(similarities, tau):
    """What each similarity has of the sum of their exponentials."""
    terms = [torch.exp(value / tau) for value in similarities]
    return [term / sum(terms) for term in terms]


def related(first, second) -> bool:
    """Whether a row's positive is the other's as well."""
    same_group = bool(first["group"]) and first["group"] == second["group"]
    return same_group or any(first[name] == second[name] for name in ("query", "positive"))


def further(rows, row) -> list[int]:
    """Which rows' positives may be further negatives of a row, each text once."""
    found: dict[tuple[int, ...], int] = {}
    for j, other in enumerate(rows):
        positive = other["positive"]
        if not known(rows, row, positive) and positive not in row["negatives"]:
            found.setdefault(tuple(positive), j)
    return list(found.values())


def known(rows, row, ids) -> bool:
    """Whether a text is the row's query or a positive of it, or of another row of its group."""
    positives = [other["positive"] for other in rows if related(row, other)]
    return ids in [row["query"], *positives]


def loaded(folder, dtype="float32") -> AutoRegModel:
    return AutoRegModel.from_pretrained(folder, dtype=dtype, device="cpu")


def prepared(folder, tuning="lora", *, seed=0, dropout=0.0, **settings) -> AutoRegModel:
    """A tiny model whose trainable weights are all off their starting points."""
    model = AutoRegModel.from_pretrained(folder, dtype="float32", device="cpu", **settings)
    torch.manual_seed(seed)  # a new adapter is drawn
    model = trainable(model, tuning, rank=3, dropout=dropout)
    shaken(model, seed)
    return model


@torch.no_grad()
def shaken(model, seed, by=0.05):
    """Move each trainable weight a little."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.requires_grad:
            value.add_(by * torch.randn(value.shape, generator=generator))


def triplets(model, *, negatives=(2, 0, 1, 3), seed=0):
    """Rows of query, positive and as many negatives as told, with reference scores.

    The scores are arbitrary numbers: formulas must hold for any.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = itertools.cycle(model.backbone.tokenize(TEXTS))
    rows = []
    for i, count in enumerate(negatives):
        row = {
            "query": next(texts),
            "positive": next(texts),
            "negatives": [next(texts) for _ in range(count)],
            "group": f"g{i}",
            "symmetric": i % 3 == 2,
        }
        references = -20 - 60 * torch.rand(count + 1, generator=generator)
        row["reference_positive"] = float(references[0])
        row["reference_negatives"] = references[1:].tolist()
        rows.append(row)
    return rows


def with_own_references(objective, rows):
    """The rows with the scores that the objective's own model gives now."""
    scores = objective.reference(rows)
    ends = scores["counts"].cumsum(0).tolist()
    flat = scores["negatives"].tolist()
    result = []
    for i, row in enumerate(rows):
        own = {
            "reference_positive": scores["positive"][i].item(),
            "reference_negatives": flat[ends[i] - len(row["negatives"]) : ends[i]],
        }
        if "prefix" in scores:
            own["reference_prefix"] = scores["prefix"][i].tolist()
        result.append({**row, **own})
    return result


def examples(model, count=6):
    """Rows of context, instruction and target, of very different lengths."""
    contexts = model.backbone.tokenize(TEXTS)
    config = model.config
    suffixes = [
        model.encoder.suffix_ids(text)
        for text in (config.query_instruction, "Say it again, in fewer words:")
    ]
    return [
        {
            "context": contexts[i],
            "suffix": suffixes[i % 2],
            "target": contexts[(5 * i + 3) % len(contexts)],
        }
        for i in range(count)
    ]


def gradients(objective, rows):
    """An objective's loss and its gradients by name in the model, as training takes them."""
    objective.model.zero_grad()
    outcome = objective(rows)
    outcome.loss.backward()
    return outcome, {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in objective.model.named_parameters()
        if value.requires_grad
    }


def assert_same_gradients(found, expected, *, rtol=1e-3):
    """Compare gradients, each parameter's relative to its norm, or to a small part of the whole."""
    assert set(found) == set(expected)
    whole = math.sqrt(sum(float(value.double().square().sum()) for value in expected.values()))
    for name, value in expected.items():
        difference = float((found[name].double() - value).norm())
        size = float(value.double().norm())
        assert difference <= rtol * max(size, 1e-3 * whole), f"{name}: {difference} of {size}"


def finite_differences(plain: Plain, loss, *, step=1e-5):
    """Slope of a plain loss by one coordinate of each kind of parameter: name, place, slope."""
    seen = set()
    for name, value in plain.parameters.items():
        kind = name.rpartition(".layers.")[2]
        if kind in seen:
            continue
        seen.add(kind)
        place = value.numel() // 2
        with torch.no_grad():
            flat = value.view(-1)
            flat[place] += step
            above = float(loss())
            flat[place] -= 2 * step
            below = float(loss())
            flat[place] += step
        yield name, place, (above - below) / (2 * step)
