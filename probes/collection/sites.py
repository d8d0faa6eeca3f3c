"""Where states are read.

=====================  =======================================================================
``prompt_last``        residual at the prompt's last token, by layer
``response_mean``      mean residual over the response's tokens, end token included, by layer
``response_tokens``    residual at every token of the response, by layer
``z:NAME``             value state that the value module NAME reads from the prompt
``delta_z:NAME``       its correction
``bridge:NAME``        its bridge tokens, one after the other
``score:NAME``         its score; above 0 means harmful
``open:NAME``          1 where its gate is open, else 0
``z_response:NAME``    its value state of the response, given the prompt
=====================  =======================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from workbench.errors import ConfigError
from workbench.svgt.config import SVGTConfig

ResidualSite = Literal["prompt_last", "response_mean", "response_tokens"]
ModuleSite = Literal["z", "delta_z", "bridge", "score", "open", "z_response"]
RESIDUAL_SITES: tuple[ResidualSite, ...] = get_args(ResidualSite)
MODULE_SITES: tuple[ModuleSite, ...] = get_args(ModuleSite)
TOKEN_SITE: ResidualSite = "response_tokens"

_OF_RESPONSE = ("response_mean", "response_tokens", "z_response")


def reads_response(site: str) -> bool:
    """Whether a site is a state of the response; the others depend on the prompt alone."""
    return site.partition(":")[0] in _OF_RESPONSE


def has_layers(site: str) -> bool:
    """Whether a site is read in every layer."""
    return site in RESIDUAL_SITES


def require_residual_sites(sites: Sequence[str]) -> tuple[ResidualSite, ...]:
    """The sites, in their fixed order.

    Raises:
        ConfigError: One is unknown.
    """
    unknown = [site for site in sites if site not in RESIDUAL_SITES]
    if unknown:
        raise ConfigError(f"unknown site '{unknown[0]}'; choose from {', '.join(RESIDUAL_SITES)}")
    return tuple(site for site in RESIDUAL_SITES if site in sites)


@dataclass(frozen=True)
class SiteArray:
    """How one site lies on disk.

    Attributes:
        site: Its name.
        shape: Rows first: examples, or tokens for ``response_tokens``.
    """

    site: str
    shape: tuple[int, ...]

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.site.replace(':', '-')}.npy"


def site_arrays(
    sites: Sequence[ResidualSite],
    modules: Mapping[str, SVGTConfig],
    *,
    n_examples: int,
    n_tokens: int,
    n_layers: int,
    d_model: int,
    responses: bool,
) -> tuple[SiteArray, ...]:
    """What a collection writes.

    Args:
        sites: Residual sites.
        modules: Configurations of the value modules that read along, by name.
        n_examples: Examples.
        n_tokens: Response tokens of all of them together.
        n_layers: Layers that are kept.
        d_model: Width of the residual stream.
        responses: Whether responses are read.
    """
    arrays = [
        SiteArray(site, (n_tokens if site == TOKEN_SITE else n_examples, n_layers, d_model))
        for site in sites
    ]
    for name, config in modules.items():
        widths: dict[ModuleSite, int] = {
            "z": config.d_value,
            "delta_z": config.d_value,
            "bridge": config.n_bridge * d_model,
            "score": 1,
            "open": 1,
            "z_response": config.d_value,
        }
        arrays += [
            SiteArray(f"{site}:{name}", (n_examples, width))
            for site, width in widths.items()
            if responses or not reads_response(site)
        ]
    return tuple(arrays)
