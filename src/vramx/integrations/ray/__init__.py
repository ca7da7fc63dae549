"""vramx for Ray: callable classes for `ray.data.Dataset.map_batches`.

Ray schedules no GPU memory and limits none. Here an actor's fraction of a card, ``num_gpus=``, is a
budget that is held: that fraction of the card less a reserve. Actors claim their shares in the
queue that all vramx processes on a card stand in.
"""

from vramx.integrations.ray.batches import FaceSwapper, Predictor, Upscaler
from vramx.integrations.ray.seat import Seat
from vramx.integrations.ray.share import Share, share_of

__all__ = ["FaceSwapper", "Predictor", "Seat", "Share", "Upscaler", "share_of"]
