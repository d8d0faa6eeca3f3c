"""Which backbone something was made for, by the hash of its weights and of its tokenizer."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from workbench.errors import CheckpointError


@runtime_checkable
class BackboneIdentity(Protocol):
    """What must be known of a backbone; every `Backbone` has it."""

    @property
    def name(self) -> str:
        """Name, for messages."""

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights, in hex."""

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of its tokenizer, in hex."""

    @property
    def n_layers(self) -> int:
        """Its blocks."""

    @property
    def d_model(self) -> int:
        """Its residual width."""


@dataclass(frozen=True)
class BackboneRecord:
    """The backbone that a value module, or a fitted method, belongs to.

    Attributes:
        name: Its name at that time.
        weights_hash: SHA-256 of its weights, in hex.
        tokenizer_hash: SHA-256 of its tokenizer, in hex.
    """

    name: str
    weights_hash: str
    tokenizer_hash: str


def require_made_for(
    trained: BackboneRecord, backbone: BackboneIdentity, *, made: str, otherwise: str
) -> None:
    """Make sure that something is used with the backbone and tokenizer it was made for.

    Args:
        trained: What it was made for.
        backbone: What it will be used with.
        made: Beginning of the message, up to the name of the former.
        otherwise: What else to do than to load that one.

    Raises:
        CheckpointError: They differ.
    """
    for what, then, now in (
        ("weights", trained.weights_hash, backbone.weights_hash),
        ("tokenizer", trained.tokenizer_hash, backbone.tokenizer_hash),
    ):
        if then != now:
            raise CheckpointError(
                f"{made} {trained.name}, whose {what} differ from those of {backbone.name} (sha256 "
                f"{then[:12]}, not {now[:12]}; another --dtype makes other weights, too); load "
                f"that backbone, or {otherwise}"
            )


def identify(backbone: BackboneIdentity) -> BackboneRecord:
    """What a record keeps of a backbone."""
    return BackboneRecord(
        name=backbone.name,
        weights_hash=backbone.weights_hash,
        tokenizer_hash=backbone.tokenizer_hash,
    )
