"""The embedded backbones by name: ordinary Hugging Face checkpoint folders inside the package."""

from pathlib import Path

from workbench.testbed.pretraining_config import PretrainConfig

_FOLDER = Path(__file__).parent / "checkpoints"

EMBEDDED_CONFIGS: dict[str, PretrainConfig] = {
    "testbed-llama": PretrainConfig("llama", "fragile"),
    "testbed-gpt2": PretrainConfig("gpt2", "fragile"),
    "testbed-llama-anchored": PretrainConfig("llama", "anchored"),
}
EMBEDDED: tuple[str, ...] = tuple(EMBEDDED_CONFIGS)
DEFAULT_BACKBONE = EMBEDDED[0]


def embedded_path(name: str) -> Path:
    """Folder of an embedded backbone.

    Raises:
        KeyError: if no embedded backbone has this name.
    """
    if name not in EMBEDDED_CONFIGS:
        raise KeyError(name)
    return _FOLDER / name
