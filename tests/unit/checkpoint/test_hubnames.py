"""Which files of a repository are the checkpoint, as the loaders of those models look for them."""

from __future__ import annotations

import pytest

from layerkit.checkpoint.hubnames import HubPath, chosen
from layerkit.errors import CheckpointError, ConfigurationError

LLAMA = ["config.json", "generation_config.json", "model-00001-of-00002.safetensors",
         "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
         "tokenizer_config.json", "README.md",
         "LICENSE", ".gitattributes", "original/consolidated.00.pth", "pytorch_model-00001-of-00002.bin",
         "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json", "modeling_own.py", "chat_template.jinja",
         "consolidated.safetensors", "trainer_state.json"]  # fmt: skip
DIFFUSERS = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
             "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
             "text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer/merges.txt",
             "scheduler/scheduler_config.json", "v1-5-pruned.safetensors"]  # fmt: skip


@pytest.mark.parametrize(
    "names, expected",
    [
        pytest.param(
            LLAMA,
            ["chat_template.jinja", "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
             "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
             "tokenizer_config.json"],
            id="shards",
        ),
        pytest.param(
            ["config.json", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "vocab.txt"],
            ["config.json", "pytorch_model.bin", "vocab.txt"],
            id="only torch",
        ),
        pytest.param(
            ["config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "onnx/config.json"],
            ["config.json", "model.safetensors"],
            id="not twice",
        ),
        pytest.param(["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"],
                     ["adapter_config.json", "adapter_model.safetensors"], id="adapter"),
        pytest.param(["weights.safetensors"], ["weights.safetensors"], id="the only one"),
        pytest.param(
            DIFFUSERS,
            ["model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
             "text_encoder/model.safetensors", "tokenizer/merges.txt", "unet/config.json",
             "unet/diffusion_pytorch_model.safetensors"],
            id="parts",
        ),
    ],
)  # fmt: skip
def test_chosen(names: list[str], expected: list[str]) -> None:
    """Weights in one format, in one precision, and what is read beside them."""
    found = chosen(names, "", "hf://a/b")
    assert sorted(found) == expected and all(path == name for path, name in found.items())


def test_inside() -> None:
    """A folder's files go to the target without it; a file that is named is taken whatever it is."""
    assert chosen(DIFFUSERS, "text_encoder", "w") == {
        "config.json": "text_encoder/config.json", "model.safetensors": "text_encoder/model.safetensors",
    }  # fmt: skip
    assert chosen(LLAMA, "original/consolidated.00.pth", "w") == {"consolidated.00.pth": "original/consolidated.00.pth"}


@pytest.mark.parametrize(
    "names, inside, hint",
    [
        pytest.param(["a.safetensors", "b.safetensors"], "", "a.safetensors, b.safetensors", id="two"),
        pytest.param(["config.json", "q4.gguf"], "", "q4.gguf", id="other format"),
        pytest.param(["config.json"], "", "no weights that torch can load", id="none"),
        pytest.param(["config.json"], "deep", "config.json", id="no such folder"),
    ],
)
def test_nothing_chosen(names: list[str], inside: str, hint: str) -> None:
    """Where it is not clear which weights are meant, the error says what there is."""
    with pytest.raises(CheckpointError) as error:
        chosen(names, inside, "hf://a/b")
    assert hint in error.value.hint


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hf://a/b", HubPath("a/b", "", "main")),
        ("hf://a/b@v1.0", HubPath("a/b", "", "v1.0")),
        ("hf://a/b/c/d.pt@refs/pr/1", HubPath("a/b", "c/d.pt", "refs/pr/1")),
        ("hf://a/b@" + "0" * 40, HubPath("a/b", "", "0" * 40)),
    ],
)
def test_parse(text: str, expected: HubPath) -> None:
    """The repository, what is taken of it, and the revision; a commit is fixed, a branch is not."""
    found = HubPath.parse(text)
    assert found == expected and found.fixed == (len(expected.revision) == 40)


@pytest.mark.parametrize(
    "text", ["hf://", "hf://a", "hf://a/..", "hf://a/b/../c", "hf://a//b/x", "hf://a/b@", "hf://a/b@x y", "hf://a/b@../x",
             "hf://-a/b", "hf://a/b/x\n", "hf://a/b@é"]
)  # fmt: skip
def test_wrong_paths(text: str) -> None:
    """What leads out of a repository, or names none, is refused before anything is asked."""
    with pytest.raises(ConfigurationError):
        HubPath.parse(text)
