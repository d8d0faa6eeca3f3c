"""What a value module is made of, as frozen, validated records.

The defaults are the published settings (SVGT, arXiv 2605.11712) for small backbones; every
departure from them is a named option here, so two modules differ exactly where their
configurations do. Layers are backbone blocks counted from 0; layer ``l`` means the residual stream
*after* block ``l``.
"""

from dataclasses import dataclass, field
from typing import Literal

from workbench.errors import ConfigError

Readout = Literal["last-mlp", "encoder"]
TriggerKind = Literal["prompt-path", "both-paths", "windowed"]
TriggerMode = Literal["prompt", "current"]
TriggerContext = Literal["token", "prompt"]
BridgeKind = Literal["attention", "mlp", "offset"]
BridgeScale = Literal["one", "residual-norm"]
BridgeConditioning = Literal["state", "none"]
CorrectionKind = Literal["gradient", "zero"]
Gate = Literal["always", "threshold"]

EMBEDDING_LAYER = -1
"""Trigger layer that stands for the token embeddings, the input of block 0."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} = {value!r} is unknown; choose one of {', '.join(choices)}")


def _require_heads(name: str, width: int, n_heads: int) -> None:
    _require(n_heads >= 1, f"{name} = {n_heads}: at least one head is needed")
    _require(
        width % n_heads == 0,
        f"{name} = {n_heads} does not divide the width {width}; choose a divisor of {width}",
    )


def _require_probability(name: str, value: float) -> None:
    _require(0.0 <= value < 1.0, f"{name} = {value}: a probability in [0, 1) is needed")


@dataclass(frozen=True)
class EncoderConfig:
    """The value-space encoder.

    Attributes:
        n_heads: Attention heads of mixer, fusion and transformer readout ("value heads").
        n_layers: Post-norm encoder layers of the mixer.
        dropout: Dropout of projections, mixer, fusion, readout and discriminator.
        readout: ``last-mlp`` (Linear, GELU, dropout, LayerNorm on the last valid token) or
            ``encoder`` (a two-layer encoder on that one vector).
        pooling: Pool the trigger pathway's tokens by attention with one learned query instead of
            taking the last valid one. On a single token both are the same.
        layer: Block whose states stages 1 and 2 train on and the harm score reads; None: the
            bridge's own layer, which the bridge itself cannot reach.
    """

    n_heads: int = 4
    n_layers: int = 2
    dropout: float = 0.1
    readout: Readout = "last-mlp"
    pooling: bool = False
    layer: int | None = None

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise ConfigError where a value is out of its range."""
        _require(self.n_heads >= 1, f"encoder.n_heads = {self.n_heads}: at least one is needed")
        _require(self.n_layers >= 1, f"encoder.n_layers = {self.n_layers}: at least one is needed")
        _require_probability("encoder.dropout", self.dropout)
        _require_choice("encoder.readout", self.readout, ("last-mlp", "encoder"))


@dataclass(frozen=True)
class TriggerConfig:
    """How the state that is corrected, z, is read.

    Attributes:
        kind: ``prompt-path`` (published code: the prompt pathway alone), ``both-paths`` (the
            paper's formula: the trigger token is the response, the prompt is the prompt) or
            ``windowed`` (convolution and attention pooling over all prompt tokens).
        layers: Blocks whose residuals are read; empty means the bridge's own layer. -1 stands for
            the token embeddings. Only ``windowed`` reads more than one.
        mode: ``prompt`` reads the prompt's end, so the bridge stays constant; ``current`` reads the
            newest token, so the bridge follows the generation.
        context: For ``prompt-path``: read the trigger ``token`` alone, or the whole ``prompt``.
        width: Channels of the windowed trigger.
        window: Tokens its convolution sees; odd, so that it is centred.
        n_heads: Learned pooling queries of the windowed trigger.
        p_token: Training only: probability that a prompt token is hidden from the windowed trigger.
        p_last3: Training only: probability that a prompt's last three tokens are hidden from it.
        noise: Training only: standard deviation of the Gaussian noise added to each standardised
            coordinate the windowed trigger reads. It keeps the trigger off directions that vary
            little in the training contexts and may move in others.
    """

    kind: TriggerKind = "prompt-path"
    layers: tuple[int, ...] = ()
    mode: TriggerMode = "prompt"
    context: TriggerContext = "token"
    width: int = 48
    window: int = 5
    n_heads: int = 4
    p_token: float = 0.0
    p_last3: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise ConfigError where a value is out of its range."""
        _require_choice("trigger.kind", self.kind, ("prompt-path", "both-paths", "windowed"))
        _require_choice("trigger.mode", self.mode, ("prompt", "current"))
        _require_choice("trigger.context", self.context, ("token", "prompt"))
        _require(
            len(set(self.layers)) == len(self.layers),
            f"trigger.layers = {self.layers} names a layer twice",
        )
        _require(
            all(layer >= EMBEDDING_LAYER for layer in self.layers),
            f"trigger.layers = {self.layers}: layers count from 0 (-1: the token embeddings)",
        )
        _require(
            self.kind == "windowed" or len(self.layers) <= 1,
            f"trigger.layers = {self.layers}: the {self.kind} trigger reads one layer; "
            "name one, or use trigger.kind = 'windowed'",
        )
        _require(
            not (self.kind == "windowed" and self.mode == "current"),
            "trigger.kind = 'windowed' reads the prompt only; set trigger.mode = 'prompt'",
        )
        _require(
            self.kind == "prompt-path" or self.context == "token",
            f"trigger.context = 'prompt' is an option of the prompt-path trigger, not {self.kind}",
        )
        _require(
            self.kind == "windowed" or self.p_token == self.p_last3 == self.noise == 0.0,
            "trigger.p_token, p_last3 and noise are options of the windowed trigger",
        )
        _require(self.width >= 1, f"trigger.width = {self.width}: at least one channel is needed")
        _require(
            self.window >= 1 and self.window % 2 == 1,
            f"trigger.window = {self.window}: an odd number of tokens is needed",
        )
        _require_heads("trigger.n_heads", self.width, self.n_heads)
        _require_probability("trigger.p_token", self.p_token)
        _require(
            0.0 <= self.p_last3 <= 1.0,
            f"trigger.p_last3 = {self.p_last3}: a probability in [0, 1] is needed",
        )
        _require(self.noise >= 0.0, f"trigger.noise = {self.noise}: must not be negative")


@dataclass(frozen=True)
class CorrectionConfig:
    """The gradient step in value space.

    Attributes:
        step_size: Factor on the first-order step to the discriminator's zero level set (eta).
        max_norm: Largest length of the step in units of the value space; None: uncapped, as
            published.
        two_sided: Also move safe states onto the zero level set (an option of the published code,
            off there too). Off: the step is zero wherever the score is at most 0.
        kind: ``gradient`` as published, or ``zero``, an ablation: delta_z = 0 everywhere. The
            score, and with it the gate, stays as it is.
    """

    step_size: float = 1.0
    max_norm: float | None = None
    two_sided: bool = False
    kind: CorrectionKind = "gradient"

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise ConfigError where a value is out of its range."""
        _require_choice("correction.kind", self.kind, ("gradient", "zero"))
        _require(self.step_size > 0, f"correction.step_size = {self.step_size}: must be positive")
        _require(
            self.max_norm is None or self.max_norm > 0,
            f"correction.max_norm = {self.max_norm}: must be positive, or null for no cap",
        )


@dataclass(frozen=True)
class BridgeConfig:
    """How a correction becomes bridge tokens.

    Attributes:
        kind: ``attention`` (paper), ``mlp`` (second generator of the published code) or
            ``offset`` (a learned base plus a correction-dependent offset).
        n_heads: Heads of the attention bridge.
        dropout: Dropout inside the bridge.
        gate_init: Start of a, where the gate is softplus(a).
        gain_init: ``one`` as published, or ``residual-norm``: `LatentBridge.initialise` sets the
            bridge's scale so that it starts at the norm of the backbone's own states. For
            ``attention`` that is the LayerNorm gain, for ``offset`` the unit its parameters are
            measured in.
        hidden: Hidden width of the ``mlp`` (null: twice d_model) and ``offset`` (null: d_value)
            bridges.
        apply_gate_twice: ``mlp`` only: the published code multiplies the correction-dependent part
            by the gate twice.
        conditioning: ``state``: the bridge is written around the trigger state h, as published.
            ``none``, an ablation: around the mean of h over the training prompts, the same for
            every prompt. The ``offset`` bridge never reads h.
    """

    kind: BridgeKind = "attention"
    n_heads: int = 8
    dropout: float = 0.1
    gate_init: float = -2.0
    gain_init: BridgeScale = "one"
    hidden: int | None = None
    apply_gate_twice: bool = False
    conditioning: BridgeConditioning = "state"

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise ConfigError where a value is out of its range."""
        _require_choice("bridge.kind", self.kind, ("attention", "mlp", "offset"))
        _require_choice("bridge.gain_init", self.gain_init, ("one", "residual-norm"))
        _require_choice("bridge.conditioning", self.conditioning, ("state", "none"))
        _require(self.n_heads >= 1, f"bridge.n_heads = {self.n_heads}: at least one is needed")
        _require_probability("bridge.dropout", self.dropout)
        _require(
            self.hidden is None or self.hidden >= 1,
            f"bridge.hidden = {self.hidden}: must be positive, or null for the default",
        )
        _require(
            self.kind == "mlp" or not self.apply_gate_twice,
            f"bridge.apply_gate_twice is an option of the mlp bridge, not of {self.kind}",
        )
        _require(
            self.kind != "offset" or self.conditioning == "state",
            "bridge.conditioning = 'none' changes nothing in the offset bridge, which never reads "
            "the trigger state; leave it at 'state'",
        )
        _require(
            self.kind != "mlp" or self.gain_init == "one",
            "bridge.gain_init = 'residual-norm' has no meaning for the mlp bridge, which adds to "
            "the trigger state; set it to 'one'",
        )


@dataclass(frozen=True)
class SVGTConfig:
    """A whole value module.

    Attributes:
        d_model: Width of the backbone's residual stream.
        layer: Block whose output is read and at whose output the bridge is inserted (l*).
        name: Name of the configuration, kept with checkpoints and results.
        n_bridge: Bridge tokens (K).
        d_value: Width of the value space.
        encoder: The value-space encoder.
        trigger: How the state to correct is read.
        correction: The gradient step.
        bridge: How the correction becomes bridge tokens.
        gate: ``always`` inserts the bridge in every row; ``threshold`` hides the slots of rows
            whose score is at most `threshold`: they run exactly as the plain backbone.
        threshold: Score above which the gate opens. Unused with ``always``.
        score_layer: Block whose states are scored in stage 3; None: where the encoder was
            trained. The published code scores one block above.
    """

    d_model: int
    layer: int
    name: str = "svgt"
    n_bridge: int = 5
    d_value: int = 128
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    gate: Gate = "always"
    threshold: float = 0.0
    score_layer: int | None = None

    def __post_init__(self) -> None:
        self.validate()

    @property
    def trigger_layers(self) -> tuple[int, ...]:
        """The layers the trigger reads, with the default filled in."""
        return self.trigger.layers or (self.layer,)

    @property
    def encoder_layer(self) -> int:
        """The layer whose states the encoder is trained on, with the default filled in."""
        return self.layer if self.encoder.layer is None else self.encoder.layer

    @property
    def response_layer(self) -> int:
        """The layer whose states are scored in stage 3, with the default filled in."""
        return self.encoder_layer if self.score_layer is None else self.score_layer

    def validate(self) -> None:
        """Raise ConfigError where values are out of range or do not fit together."""
        _require(self.d_model >= 1, f"d_model = {self.d_model}: must be positive")
        _require(self.layer >= 0, f"layer = {self.layer}: blocks count from 0")
        _require(
            self.n_bridge >= 1,
            f"n_bridge = {self.n_bridge}: at least one bridge token is needed (K >= 1); "
            "for an unguided model use --guidance none",
        )
        _require(self.d_value >= 2, f"d_value = {self.d_value}: at least 2 is needed")
        _require_choice("gate", self.gate, ("always", "threshold"))
        _require_heads("encoder.n_heads", self.d_value, self.encoder.n_heads)
        if self.bridge.kind == "attention":
            _require_heads("bridge.n_heads", self.d_model, self.bridge.n_heads)
        _require(
            max(self.trigger_layers) <= self.layer,
            f"trigger.layers = {self.trigger.layers}: the bridge is written at layer {self.layer}, "
            "so the trigger can only read layers up to it",
        )
        _require(
            self.response_layer >= 0,
            f"score_layer = {self.score_layer}: blocks count from 0",
        )
        _require(
            self.encoder_layer >= 0, f"encoder.layer = {self.encoder.layer}: blocks count from 0"
        )

    def validate_for(self, *, n_layers: int, d_model: int, backbone: str) -> None:
        """Check that this configuration fits a backbone.

        Args:
            n_layers: The backbone's blocks.
            d_model: Its residual width.
            backbone: Its name, for the message.

        Raises:
            ConfigError: A layer does not exist there, no block is left above the bridge, or the
                widths differ.
        """
        _require(
            d_model == self.d_model,
            f"d_model = {self.d_model}: this value module reads states of width {self.d_model}, "
            f"but {backbone} has width {d_model}",
        )
        _require(
            n_layers > 1,
            f"{backbone} has one block: the bridge is written after a block and read by one above "
            "it, so take a backbone of two blocks or more",
        )
        _require(
            self.layer <= n_layers - 2,
            f"layer = {self.layer} is out of range for {backbone} with {n_layers} blocks: the "
            f"bridge needs a block above it, so choose 0 to {n_layers - 2}",
        )
        _require(
            self.encoder_layer <= n_layers - 1,
            f"encoder.layer = {self.encoder_layer} is out of range for {backbone} with {n_layers} "
            f"blocks: choose 0 to {n_layers - 1}",
        )
        _require(
            self.response_layer <= n_layers - 1,
            f"score_layer = {self.response_layer} is out of range for {backbone} with {n_layers} "
            f"blocks: choose 0 to {n_layers - 1}",
        )
