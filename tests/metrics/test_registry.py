"""Metrics by name: each name makes its class with its backbone, and what is no name is refused with what there is."""

import pytest

from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.pooled import ClipImages, TinyFeatures
from gendiv_lightning.metrics import registry as names
from gendiv_lightning.metrics.registry import METRICS, make_features, make_metric, split_names


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("lpips", "diversity/lpips"),
        ("lpips[vgg]", "diversity/lpips[vgg]"),
        ("pixel_cosine", "diversity/pixel_cosine"),
        ("cosine", "diversity/cosine[dinov2]"),
        ("cosine[dinov2,model=facebook/dinov2-large]", "diversity/cosine[dinov2-large]"),
        ("vendi[q=2]", "diversity/vendi[pixels,q=2]"),
        ("vendi_set[tiny, q=.inf]", None),
        ("clip_iqa[prompts=[happy,warm]]", "quality/clip_iqa/happy"),
        ("clip_iqa[pairs={crisp: [Crisp photo., Soft photo.]}]", "quality/clip_iqa/quality"),
        ("clip_score[tiny-clip,long_captions=chunks]", "quality/clip_score[tiny-clip]"),
        ("fid[resize=torch-fidelity]", "quality/fid"),
        ("precision_recall[tiny-clip,k=2]", "quality/precision[tiny-clip]"),
        (" ssim ", "diversity/ssim"),
        ("clip_score[tiny-clip]", "quality/clip_score[tiny-clip]"),
        ("clip_iqa", "quality/clip_iqa"),
        ("clip_cosine[ViT-B-32/openai]", "diversity/clip_cosine[ViT-B-32/openai]"),
        ("vendi[tiny]", "diversity/vendi[tiny]"),
        ("fid", "quality/fid"),
        ("kid", "quality/kid"),
        ("fd[tiny-clip]", "quality/fd[tiny-clip]"),
        ("precision_recall[tiny-clip]", "quality/precision[tiny-clip]"),
        ("token_entropy", "h_total/token"),
        ("sequence_entropy", "h_total/sequence"),
        ("postcard_truth", "postcards/stated_right"),
    ],
)
def test_the_number_has_the_name(name, first):
    metric = make_metric(name, reference="there.safetensors")
    assert (metric.names[0] if first else metric.name) == (first or "diversity/vendi_set[tiny,q=inf]")


def test_options_reach_the_metric_and_its_backbone(tmp_path):
    (tmp_path / "alex.pth").touch()
    assert make_metric(f"lpips[weights={tmp_path}/alex.pth]").features.weights == f"{tmp_path}/alex.pth"
    fid = make_metric(f"fid[resize=torch-fidelity, weights={tmp_path}/alex.pth]", "there.safetensors")
    assert (fid.network.resize, fid.network.weights) == ("torch-fidelity", f"{tmp_path}/alex.pth")
    assert make_metric("precision_recall[k=2,k_density=7]", "there.safetensors").k_density == 7
    iqa = make_metric("clip_iqa[tiny-clip,prompts=[],pairs={warm sky: [orange sky, blue sky]}]")
    assert iqa.pairs == {"warm sky": ("orange sky", "blue sky")}
    assert make_features("inception,resize=torch-fidelity").resize == "torch-fidelity"
    assert make_metric("codebook", codebook_size=7).codebook_size == 7


def test_a_comma_in_brackets_separates_nothing():
    assert split_names("ssim, vendi[tiny,q=2],clip_iqa[pairs={a: [b, c]}]") == [
        *("ssim", "vendi[tiny,q=2]", "clip_iqa[pairs={a: [b, c]}]")
    ]


def test_every_metric_can_be_had():
    for name in METRICS:
        assert make_metric(f"{name}[tiny-clip]" if name in ("fd", "kd") else name, "there.safetensors", 8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SSIM", "unknown; there are lpips, "),
        ("fancy", "unknown"),
        ("lpips[resnet]", "alex, vgg, squeeze, tiny"),
        ("lpips[", "unknown"),
        ("ssim[tiny]", "has no backbone"),
        ("fid", "reference"),
        ("fd", "reference"),
        ("vendi[order=2]", "metric 'vendi.order=2.' has no option 'order'; it has q"),
        ("vendi[q=many]", "metric 'vendi.q=many.': Expected a .*float"),
        ("vendi[q=0]", "q must lie in"),
        ("vendi[tiny,inception]", "behind the backbone stand options"),
        ("ssim[q=2]", "has no option 'q'; it has none"),
        ("lpips[weights=nowhere.pth]", "weights must name a file; got 'nowhere.pth'"),
        ("clip_iqa[pairs={crisp: [Crisp photo.]}]", "tuple with 2 elements"),
        ("codebook", "measure a finished run's folder"),
    ],
)
def test_what_is_no_metric_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        make_metric(name)


@pytest.mark.parametrize("name", ["fd", "fid[tiny-clip]"])
def test_only_inceptions_distance_is_called_fid(name):
    with pytest.raises(ValueError, match="Inception"):
        make_metric(name, "there.safetensors")


def test_networks_by_name():
    assert isinstance(make_features("inception"), InceptionFeatures)
    assert isinstance(make_features("tiny"), TinyFeatures)
    assert isinstance(make_features("tiny-clip"), ClipImages)
    assert make_features("tiny-clip").tag == "tiny-clip"
    assert names.make_features("pixels").tag == "pixels"
