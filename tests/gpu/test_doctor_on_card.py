"""The doctor and the forecast on a real card."""

from __future__ import annotations

import pytest

from vramx.doctor import Severity, ThisMachine, examine
from vramx.forecast import for_module, this_card

torch = pytest.importorskip("torch")


def test_a_card_on_which_these_tests_run_is_usable() -> None:
    findings = examine()
    checked = {finding.check for finding in findings if finding.severity is Severity.OK}
    assert {"driver", "cards", "torch", "managed memory", "mapped memory"} <= checked
    assert all("failed" not in finding.what for finding in findings)
    assert "link" in {finding.check for finding in findings}


def test_the_link_is_that_of_the_card() -> None:
    machine = ThisMachine()
    rates = machine.link(0)
    assert rates.uuid in {card.uuid for card in machine.cards()}
    assert min(rates.to_card, rates.to_host) > 1e9


def test_this_card_is_planned_for_with_its_measured_link() -> None:
    card = this_card()
    assert card.link_source == "measured"
    assert card.memory <= torch.cuda.get_device_properties(0).total_memory * 1.05
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(64)))
    found = for_module(model, [torch.ones(16, 1024)], budget="192MiB", compute=1e-3, card=card)
    assert not found.fits
    assert found.seconds >= found.t_fluid
