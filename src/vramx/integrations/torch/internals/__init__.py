"""All that vramx relies on in torch beyond what torch documents, in one room.

Each part is looked for once, as this is imported. What is not as expected is asked of torch in a
slower way, or done without; `unexpected` says which, and what that costs.
"""

from __future__ import annotations

from vramx.integrations.torch.internals.layout import COUNTS_USES, FOUND_LAYOUT
from vramx.integrations.torch.internals.own_calls import FOUND_HOOKS
from vramx.integrations.torch.internals.streams import FOUND_STREAM


def unexpected() -> list[str]:
    """Say what of torch's internals is not as vramx expects.

    Returns
    -------
    list of str
        A sentence for each part and what its lack costs; none where all is as expected.
    """
    parts = [
        (
            FOUND_LAYOUT,
            "tensors do not keep their storages where vramx looks: weights lie in unified memory "
            "instead of mapped, and are copied back when they leave the card",
        ),
        (
            FOUND_HOOKS,
            "modules look for hooks in another way: leased calls take torch's own, longer way",
        ),
        (
            COUNTS_USES,
            "storages do not tell how many tensors look at them: what is cast for each call is "
            "moved anew in each pass",
        ),
        (
            FOUND_STREAM,
            "the present stream is not told by a C function: each call asks Python for it",
        ),
    ]
    return [text for found, text in parts if not found]
