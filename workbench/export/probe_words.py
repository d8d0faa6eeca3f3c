"""Names of the probes in words (light): sites, estimators, contrasts, contexts and layers."""

UNTRAINED = "untrained"
"""Name under which a freshly initialised value module reads along as a control."""

_SITES = {
    "prompt_last": "residual, last prompt token",
    "response_mean": "residual, mean of the reply",
    "response_tokens": "residual, reply tokens",
    "z": "value state z",
    "delta_z": "correction Δz",
    "bridge": "bridge tokens B",
    "score": "harm score",
    "open": "gate",
    "z_response": "value state z of the reply",
}
_ESTIMATORS = {
    "mean_difference": "difference of means",
    "mass_mean": "mass-mean",
    "lda": "LDA",
    "logistic": "logistic regression",
    "lat": "PCA of paired differences (LAT)",
    "ccs": "CCS",
}
POOLED = ("", "trained", "unseen")
"""What stands for many contexts where a context belongs."""

_SCOPES = {"": "all contexts", "trained": "contexts fitted on", "unseen": "other contexts"}
_CONTRASTS = {
    "prompt": "harmful vs. harmless prompts",
    "response": "harmful vs. safe replies",
}


def site_text(site: str) -> str:
    """A site in words; ``z:untrained`` becomes *value state z, untrained*."""
    place, step = (site.partition("@")[0], site.partition("@")[2])
    name, _, reader = place.partition(":")
    words = _SITES.get(name, name.replace("_", " "))
    if reader:
        words += f", {reader}"
    return f"{words}, token {step}" if step else words


def family(site: str) -> str:
    """What kind of site this is: ``residual`` for all places in the residual stream."""
    name = site.partition("@")[0].partition(":")[0]
    residual = ("prompt_last", "response_mean", "response_tokens", "residual")
    return "residual" if name in residual else name


def is_control(site: str) -> bool:
    """Whether an untrained module reads this site."""
    return site.partition(":")[2].partition("@")[0].startswith(UNTRAINED)


def estimator_text(name: str) -> str:
    """An estimator in words; ``random/lda`` becomes *random: LDA*."""
    kind, _, base = name.rpartition("/")
    words = _ESTIMATORS.get(base, base.replace("_", " "))
    return f"{kind}: {words}" if kind else words


def contrast_text(name: str) -> str:
    """A contrast in words."""
    return _CONTRASTS.get(name, name.replace("_", " "))


def context_text(name: str) -> str:
    """A context frame in words; two at once are joined by ``+``."""
    return name.replace("_", " ")


def scope_text(context: str) -> str:
    """A context, or what stands for many, in words."""
    return _SCOPES.get(context, context_text(context))


def layer_text(layer: int | None) -> str:
    """A layer in words; -1 stands for the embeddings."""
    if layer is None:
        return "no layers"
    return "embeddings" if layer == -1 else f"block {layer}"


def place_text(site: str, layer: int | None) -> str:
    """A site and its layer, if it has one, in words."""
    return site_text(site) if layer is None else f"{site_text(site)}, {layer_text(layer)}"
