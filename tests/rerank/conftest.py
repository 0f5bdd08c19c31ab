import peft
import pytest
import torch

from autoreg_rag.model import AutoRegModel

QUERY = "What does the raise statement do?"
TEXTS = [
    "The raise statement re-raises the active exception.",
    "Yes.",
    "Whales are mammals that live in the sea. " * 3,
    "漢字かな交じり文 🙂 café, naïve — Ünïcödé",
    "a",
    "An assignment binds names to objects; a global statement changes which names are meant.",
]
FAMILIES = ["llama", "qwen", "mistral", "gemma"]


def load(folder, **settings):
    """A tiny model whose bridge lets more of e through than an untrained one does."""
    model = AutoRegModel.from_pretrained(folder, dtype="float32", device="cpu", **settings)
    with torch.no_grad():
        model.neck.bridge_matrix.mul_(10)
    return model


@pytest.fixture
def model(tiny_folder):
    return load(tiny_folder)


@pytest.fixture
def adapted(tiny_folder):
    """A tiny model whose encoder differs from its decoder: it has a random adapter."""
    torch.manual_seed(3)
    model = load(tiny_folder)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    language_model = peft.get_peft_model(model.backbone.language_model, config).eval()
    model.backbone.language_model = model.language_model = language_model
    return model
