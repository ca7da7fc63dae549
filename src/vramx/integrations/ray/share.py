"""Which part of a card an actor has: Ray counts fractions of cards, and limits none."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from vramx import config
from vramx.errors import ConfigError, NoDeviceError
from vramx.session.cores import open_device
from vramx.session.options import SessionOptions
from vramx.units import format_size


@dataclass(frozen=True)
class Share:
    """A part of a card.

    Attributes
    ----------
    budget : int
        Bytes of the card that the actor may have.
    whole : int
        Bytes that all actors on the card may have together.
    card : str or None
        The name under which processes share the card; None for what the card itself is called.
    device : str
        The card's name, for people.
    """

    budget: int
    whole: int
    card: str | None
    device: str


def share_of(options: SessionOptions) -> Share:
    """Tell which part of its card the calling actor or task has, by what Ray assigned to it.

    Its budget is that fraction of the card less ``options.reserve``, unless the options give a
    smaller one.

    Parameters
    ----------
    options : SessionOptions
        Of the session to come.

    Returns
    -------
    Share
        The part.

    Raises
    ------
    NoDeviceError
        If Ray assigned no card, and the simulated one was not asked for; or if there is no such
        card on the node.
    ConfigError
        If it assigned more than one card, if the fraction leaves nothing beside the reserve, or if
        a budget is asked for that is larger than the fraction.
    """
    context = ray.get_runtime_context()
    assigned = context.get_assigned_resources()
    fraction = float(assigned.get("GPU", 0))
    is_simulated = options.backend == "simulated"
    if fraction == 0 and not is_simulated:
        raise NoDeviceError(
            "Ray assigned no GPU to this actor: ask for a part of one, such as num_gpus=0.5; "
            "SessionOptions(backend='simulated') computes on the CPU"
        )
    if fraction > 1:
        raise ConfigError(
            f"num_gpus={fraction:g}, but a session is of one card: give up to 1, and more actors"
        )
    device = open_device(options, config.from_environment())
    capacity, reserve = device.capacity, options.reserve_bytes
    most = int((fraction or 1) * capacity) - reserve
    told = f"{fraction or 1:g} of {device.name}'s {format_size(capacity)}"
    if most <= 0:
        raise ConfigError(
            f"{told} leaves nothing beside the reserve of {format_size(reserve)}: ask for more of "
            "the card with num_gpus=, or give a smaller reserve"
        )
    asked = options.budget_bytes
    if asked is not None and asked > most:
        raise ConfigError(
            f"a budget of {format_size(asked)} is more than the {format_size(most)} that {told} "
            f"leaves beside the reserve of {format_size(reserve)}: give less, or ask for more of "
            "the card with num_gpus="
        )
    card = None
    if is_simulated and fraction:  # several actors have parts of the same one
        card = f"ray-{context.get_node_id()}-{ray.get_gpu_ids()[0]}"
    return Share(most if asked is None else asked, capacity - reserve, card, device.name)
