import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.features.images import check_images, split_images
from gendiv_lightning.features.pixels import pixel_features


def images(num=4, size=12):
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_squared_distance_is_twice_the_cosine_distance():
    pictures = images()
    features = pixel_features(pictures)
    flat = (pictures.double() / 255).flatten(1)
    distance = (features[0] - features[1]).square().sum()
    assert distance.item() == pytest.approx(2 * (1 - F.cosine_similarity(flat[0], flat[1], dim=0).item()), abs=1e-12)


def test_every_image_has_norm_1_even_a_black_one():
    pictures = torch.cat([images(2), torch.zeros(1, 3, 12, 12, dtype=torch.uint8)])
    torch.testing.assert_close(pixel_features(pictures).norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_black_is_treated_as_the_darkest_grey():
    greys = torch.tensor([0, 1, 128, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 12, 12)
    features = pixel_features(greys)
    torch.testing.assert_close(features, features[:1].expand(4, -1), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (torch.rand(2, 3, 8, 8), r"uint8 .* torch\.float32"),
        (torch.full((2, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"\(2, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "RGB"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "N >= 1"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 9, 9, dtype=torch.uint8)], "mixed sizes"),
    ],
)
def test_input_other_than_a_batch_of_images_is_an_error(pictures, words):
    with pytest.raises(ValueError, match=words):
        check_images(pictures)


def test_chunks_give_the_whole_and_stay_small():
    parts = split_images(images(70))
    assert torch.equal(torch.cat(parts), images(70))
    assert max(map(len, parts)) == 32
    assert {len(part) for part in split_images(torch.empty(4, 3, 1024, 1024, dtype=torch.uint8))} == {1}
