"""Predicting, before anything is run, how a model would do in little memory on a card."""

from vramx.plan.cards import find_card, this_card
from vramx.plan.forecast import Forecast, Precision
from vramx.plan.models import for_file, for_module
from vramx.plan.table import CARDS, PlannedCard

__all__ = [
    "CARDS",
    "Forecast",
    "PlannedCard",
    "Precision",
    "find_card",
    "for_file",
    "for_module",
    "this_card",
]
