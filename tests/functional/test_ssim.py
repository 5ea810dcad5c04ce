import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from gendiv_lightning.functional.ssim import ssim_matrix


def images(num=5, height=24, width=33, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(num, 3, height, width, generator=generator, dtype=dtype)
    shared = torch.rand(3, height, width, generator=generator, dtype=dtype)
    return 0.4 * noise + 0.6 * shared


def pair_by_pair(pictures):
    rows = [
        [structural_similarity_index_measure(a[None], b[None], data_range=1.0).item() for b in pictures]
        for a in pictures
    ]
    return torch.tensor(rows, dtype=pictures.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_every_pair_agrees_with_torchmetrics(dtype, tolerance):
    pictures = images(dtype=dtype)
    matrix = ssim_matrix(pictures)
    assert 0.1 < matrix[0, 1] < 0.99
    torch.testing.assert_close(matrix, pair_by_pair(pictures), rtol=0, atol=tolerance)


def test_constant_and_smooth_images_agree_with_torchmetrics():
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    greys = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    pictures = torch.cat([ramp, greys])
    torch.testing.assert_close(ssim_matrix(pictures), pair_by_pair(pictures), rtol=0, atol=1e-6)


def test_chunks_of_pairs_give_the_same_matrix(monkeypatch):
    pictures = images(dtype=torch.float64)
    whole = ssim_matrix(pictures)
    monkeypatch.setattr("gendiv_lightning.functional.ssim._CHUNK_VALUES", 1)
    torch.testing.assert_close(ssim_matrix(pictures), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("part", "size"), [("_TILE", 1), ("_TILE", 7), ("_TILE", 13), ("_BLOCK", 1), ("_BLOCK", 2), ("_BLOCK", 3)]
)
def test_tiles_and_blocks_of_images_give_the_same_matrix(part, size, monkeypatch):
    pictures = images(dtype=torch.float64)
    whole = ssim_matrix(pictures)
    monkeypatch.setattr(f"gendiv_lightning.functional.ssim.{part}", size)
    torch.testing.assert_close(ssim_matrix(pictures), whole, rtol=0, atol=1e-12)
    assert ssim_matrix(pictures).equal(ssim_matrix(pictures).T)


def test_tiled_images_agree_with_torchmetrics():
    pictures = images(3, 100, 71, torch.float64)
    torch.testing.assert_close(ssim_matrix(pictures), pair_by_pair(pictures), rtol=0, atol=1e-6)


def test_framed_images_agree_with_scikit_image():
    framed = torch.full((2, 3, 90, 100), 0.4, dtype=torch.float64)  # the frame makes border handling irrelevant
    framed[:, :, 15:-15, 15:-15] = images(2, 60, 70, torch.float64)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 0}
    _, similarity = structural_similarity(*framed.numpy(), full=True, **settings)
    assert ssim_matrix(framed)[0, 1].item() == pytest.approx(similarity.mean(), abs=1e-6)


def test_uint8_images_equal_float_images():
    pictures = (255 * images()).to(torch.uint8)
    torch.testing.assert_close(ssim_matrix(pictures), ssim_matrix(pictures.double() / 255), rtol=0, atol=1e-12)


def test_identical_images_have_ssim_1():
    pictures = images(1, dtype=torch.float64).expand(3, -1, -1, -1)
    torch.testing.assert_close(ssim_matrix(pictures), torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_an_image_smaller_than_the_window_is_an_error():
    assert ssim_matrix(images(2, 11, 11)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"at least 11 x 11 .* got 10 x 24"):
        ssim_matrix(images(2, 10, 24))
