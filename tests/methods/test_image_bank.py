"""The image bank against published code's results (golden, exact) and its form on the host."""

import prototype_cases as cases
import torch

from wsssbench.methods.image_bank import ImageBank, boxes_of, inside_boxes

GOLDEN = cases.load("sfc_ibr")


def test_golden_bank():
    bank = ImageBank(20)
    for step, ids in enumerate(GOLDEN["in_image_ids"]):
        images = ids[:, None, None, None].float().expand(-1, 3, 4, 4)
        labels = GOLDEN["in_labels"][step]
        bank.update(images, labels, torch.ones(len(ids), 4, 4, dtype=torch.bool))
        assert (bank.images[:, 0, 0, 0] == GOLDEN["out_bank_ids"][step]).all()
        assert (bank.labels == GOLDEN["out_bank_labels"][step]).all()
        drawn, drawn_labels, valid = bank.draw(GOLDEN["in_draws"][step], images)
        found = torch.cat([images, drawn])
        assert (found == GOLDEN["out_image_ids"][step][:, None, None, None]).all()
        assert (torch.cat([labels, drawn_labels]) == GOLDEN["out_labels"][step]).all()
        assert (valid.any((1, 2)) == (drawn[:, 0, 0, 0] > 0)).all()  # an empty slot is all padding


def test_images_come_back_to_half_precision_with_their_boxes():
    bank, generator = ImageBank(3), torch.Generator().manual_seed(0)
    images = 2 * torch.randn(2, 3, 6, 5, generator=generator)
    valid = torch.zeros(2, 6, 5, dtype=torch.bool)
    valid[0, 1:4, 2:5], valid[1, :, :3] = True, True
    bank.update(images, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), valid)
    drawn, labels, inside = bank.draw(torch.tensor([0, 2, 1]), images)
    torch.testing.assert_close(drawn[:2], images, rtol=1e-3, atol=1e-3)
    assert drawn.dtype == torch.float32
    assert bank.images.dtype == torch.float16
    assert labels.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert (inside[:2] == valid).all()
    assert not inside[2].any()


def test_a_batch_without_labels_changes_nothing():
    bank = ImageBank(2)
    bank.update(torch.ones(2, 3, 4, 4), torch.zeros(2, 2), torch.ones(2, 4, 4, dtype=torch.bool))
    assert (bank.images == 0).all()


def test_boxes_by_hand():
    valid = torch.zeros(3, 4, 5, dtype=torch.bool)
    valid[0], valid[1, 2, 4] = True, True
    boxes = boxes_of(valid)
    assert boxes.tolist() == [[0, 0, 4, 5], [2, 4, 3, 5], [0, 0, 0, 0]]
    assert (inside_boxes(boxes, (4, 5)) == valid).all()


def test_memory_is_a_copy_once_taken_back():
    bank = ImageBank(1)
    assert bank.memory() == {}
    bank.update(torch.ones(1, 3, 4, 4), torch.ones(1, 1), torch.ones(1, 4, 4, dtype=torch.bool))
    other = ImageBank(1)
    other.remember(bank.memory())
    bank.images[:] = 5
    assert (other.images == 1).all()
