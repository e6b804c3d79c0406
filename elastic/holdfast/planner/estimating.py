"""What is known of a Program before anything was measured, as a profile: sizes, and costs that are only relative."""

from collections.abc import Sequence

from holdfast.model.facts import LayerFacts
from holdfast.planner.profile import LayerProfile, Link, Profile

# A forward and the backward after it, which computes as much for the input and as much for the parameters.
_FORWARD_SHARE = 1 / 3
# What a link is taken for when it is asked how long a transition takes, until one was measured: that of 10 Gbit/s.
_LINK = Link(bytes_per_s=1e9, latency_s=1e-4)


def estimated_profile(facts: Sequence[LayerFacts]) -> Profile:
    """Of layers that were looked at on the meta device."""
    return _estimate(
        [_layer(f.name, f.cost, f.param_bytes, f.state_bytes, f.saved_bytes, f.output_bytes) for f in facts]
    )


def uniform_profile(names: Sequence[str], state_bytes: Sequence[int]) -> Profile:
    """Of layers of which nothing but their size is known: they count alike, and keep no activations."""
    return _estimate([_layer(name, 1.0, 0, size, 0, 0) for name, size in zip(names, state_bytes, strict=True)])


def _estimate(layers: Sequence[LayerProfile]) -> Profile:
    return Profile(fingerprint="", layers=tuple(layers), between_nodes=_LINK, within_node=_LINK, is_measured=False)


def _layer(
    name: str, cost: float, param_bytes: int, state_bytes: int, activation_bytes: int, output_bytes: int
) -> LayerProfile:
    return LayerProfile(
        name=name,
        forward_s=cost * _FORWARD_SHARE,
        backward_s=cost * (1 - _FORWARD_SHARE),
        param_bytes=param_bytes,
        state_bytes=state_bytes,
        activation_bytes=activation_bytes,
        output_bytes=output_bytes,
    )
