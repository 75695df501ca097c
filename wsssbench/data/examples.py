"""Pictures of a data set that are worth looking at; chosen with the masks, so for the eye only."""

import numpy as np

from wsssbench.data.folder import Folder
from wsssbench.errors import UserError

LOOKED_AT = 200  # images among which a picture is chosen
PARTNER_AREA = 0.2  # of the image: well seen, without covering it


def choose_pair(
    folder: Folder, split: str, image_id: str = "", partner_id: str = ""
) -> tuple[str, str]:
    """An image that shows two classes well, and a partner with a single object of another one.

    Those not named are taken from the split's labelled images that have a mask.

    Raises:
        UserError: the split has not two such images.
    """
    if image_id and partner_id:
        return image_id, partner_id
    ids = [name for name in folder.ids(split) if folder.has_mask(name)]
    ids = [name for name in ids[:: max(1, len(ids) // LOOKED_AT)] if folder.label(name).any()]
    areas = {name: _areas(folder, name) for name in {*ids, image_id, partner_id} - {""}}
    if len(areas) < 2:
        raise UserError(
            f"{folder.root}: of the list {split}, fewer than two images have labels and a mask. "
            "Name image_id and partner_id."
        )

    def two_classes(name: str) -> float:  # the smaller of exactly two, or else a little
        found = sorted(areas[name].values())
        return found[0] if len(found) == 2 else 1e-3 * sum(found)

    def single_other(name: str) -> float:
        shared = len(areas[name].keys() & areas[image_id].keys())
        area = sum(areas[name].values())
        return shared + abs(len(areas[name]) - 1) + abs(area - PARTNER_AREA)

    image_id = image_id or max((name for name in ids if name != partner_id), key=two_classes)
    others = (name for name in ids if name != image_id)
    return image_id, partner_id or min(others, key=single_other)


def _areas(folder: Folder, name: str) -> dict[int, float]:
    """Share of the image that each class of its mask covers."""
    counts = np.bincount(folder.mask(name).ravel(), minlength=256)
    return {i: counts[i] / counts.sum() for i in range(1, folder.num_classes + 1) if counts[i]}
