"""Likelihoods as the equations say them: one text at a time, full logits, float64."""

import torch
from transformers import AutoModelForCausalLM


class Plain:
    """A base in float64, and the neck of a model."""

    def __init__(self, folder, model):
        self.lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.model = model
        self.neck = {
            name: value.detach().double() for name, value in model.neck.state_dict().items()
        }

    def embed(self, ids):
        return self.lm.get_input_embeddings()(torch.tensor(ids))

    @torch.no_grad()
    def latents(self, text, instruction):
        """e, [k, d]: the last hidden states at the compress tokens."""
        (ids,) = self.model.encoder.ids([text], instruction)
        tokens = self.neck["compress_tokens"]
        vectors = torch.cat([self.embed(ids), tokens])[None]
        return self.lm.model(inputs_embeds=vectors).last_hidden_state[0, -len(tokens) :]

    @torch.no_grad()
    def log_likelihood(self, latents, text):
        """Sum of log D(t_i | e, t_<i), and how many terms it has."""
        (ids,) = self.model.decoder.ids([text])
        prefix = (
            self.neck["bridge_start"]
            + (latents - self.neck["bridge_center"]) @ self.neck["bridge_matrix"]
        )
        vectors = torch.cat([prefix, self.embed(ids)])[None]
        log_probs = self.lm(inputs_embeds=vectors).logits[0].double().log_softmax(-1)
        chosen = log_probs[len(prefix) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
        return chosen.sum().item(), len(ids)

    def score(self, kind, query, text):
        config = self.model.config
        e_q = self.latents(query, config.query_instruction)
        total, count = self.log_likelihood(e_q, text)
        if kind == "mean":
            return total / count
        if kind == "pmi":
            return total - self.log_likelihood(self.neck["bridge_center"], text)[0]
        if kind in ("cda", "cda_mean"):
            e_d = self.latents(text, config.document_instruction)
            difference = total - self.log_likelihood(e_d, text)[0]
            return difference / count if kind == "cda_mean" else difference
        return total
