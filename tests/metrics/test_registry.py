"""Metrics by name: each name builds its class with its backbone; unknown names give an error that lists the known."""

import pytest

from gendiv_lightning import plugins
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.metrics import SSIM
from gendiv_lightning.metrics.base import PromptMetric, metric_name
from gendiv_lightning.metrics.registry import make_features, make_metric, make_metrics, split_names
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.toy.scorer import PostcardScorer

# Brackets of metrics that need them.
INSIDE = {
    "fd": "[tiny-clip]",
    "kd": "[tiny-clip]",
    "vqa_score": "[postcards]",
    "attributes": "[postcards,list=postcards]",
}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("lpips", "diversity/lpips"),
        ("lpips[vgg]", "diversity/lpips[vgg]"),
        ("dists", "diversity/dists"),
        ("pixel_cosine", "diversity/pixel_cosine"),
        ("cosine", "diversity/cosine[dinov2]"),
        ("cosine[dinov2,model=facebook/dinov2-large]", "diversity/cosine[dinov2-large]"),
        ("vendi[q=2]", "diversity/vendi[pixels,q=2]"),
        ("vendi_set[tiny, q=.inf]", "diversity/vendi_set[tiny,q=inf]"),
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
        ("vqa_score[postcards]", "quality/vqa_score[postcards]"),
    ],
)
def test_the_value_has_the_name_of_its_metric(name, first):
    assert make_metric(name, reference="there.safetensors").names[0] == first


def test_options_reach_the_metric_and_its_backbone(tmp_path):
    (tmp_path / "alex.pth").touch()
    assert make_metric(f"lpips[weights={tmp_path}/alex.pth]").features.weights == f"{tmp_path}/alex.pth"
    fid = make_metric(f"fid[resize=torch-fidelity, weights={tmp_path}/alex.pth]", "there.safetensors")
    assert (fid.features.resize, fid.features.weights) == ("torch-fidelity", f"{tmp_path}/alex.pth")
    assert make_metric("precision_recall[k=2,k_density=7]", "there.safetensors").k_density == 7
    iqa = make_metric("clip_iqa[tiny-clip,prompts=[],pairs={warm sky: [orange sky, blue sky]}]")
    assert iqa.pairs == {"warm sky": ("orange sky", "blue sky")}
    assert make_features("inception,resize=torch-fidelity").resize == "torch-fidelity"
    assert make_metric("codebook", codebook_size=7).codebook_size == 7


def test_a_comma_in_brackets_does_not_separate_metrics():
    assert split_names("ssim, vendi[tiny,q=2],clip_iqa[pairs={a: [b, c]}]") == [
        *("ssim", "vendi[tiny,q=2]", "clip_iqa[pairs={a: [b, c]}]")
    ]


def test_every_registered_metric_can_be_built():
    for name in plugins.registered("metrics"):
        assert make_metric(f"{name}{INSIDE.get(name, '')}", "there.safetensors", 8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SSIM", "unknown.*lpips"),
        ("fancy", "unknown"),
        ("lpips[resnet]", "alex, squeeze, tiny, vgg"),
        ("lpips[", "unknown"),
        ("ssim[tiny]", "takes no backbone"),
        ("fid", "reference"),
        ("fd", "reference"),
        ("vendi[order=2]", r"metric 'vendi.order=2.' has no option 'order'\. Its options: q"),
        ("vendi[q=many]", "metric 'vendi.q=many.': q must be a number, got 'many'"),
        ("vendi[q=null]", "q must be a number, got 'null'"),
        ("vendi[q=2,q=3]", "option 'q' must not be repeated"),
        ("clip_iqa[pairs={}]", "pairs must contain a pair"),
        ("clip_iqa[prompts=happy,prompts=warm]", "option 'prompts' must not be repeated"),
        ("clip_score[long_captions=split]", "long_captions must be one of cut, chunks, got 'split'"),
        ("clip_score[inception]", "backbone must be a CLIP.*got 'inception'"),
        ("vendi[inceptoin]", "backbone must be .*gendiv list features.*'inceptoin'"),
        ("vendi[q=0]", "q must be in"),
        ("vendi[tiny,inception]", "options as name=value; got 'inception'"),
        ("ssim[q=2]", r"has no option 'q'\. Its options: none"),
        ("lpips[weights=nowhere.pth]", "weights must be a file, got 'nowhere.pth'"),
        ("clip_iqa[pairs={crisp: [Crisp photo.]}]", "pairs must be .*got '{crisp"),
        ("codebook", "Measure the folder of a finished run"),
        ("vqa_score", r"requires a scorer in brackets, such as vqa_score\[endpoint,model=NAME\]"),
        (
            "vqa_score[postcadrs]",
            "'postcadrs' is neither a registered scorer nor a CLIP.*Choose one of endpoint, postcards, transf",
        ),
        ("vqa_score[tiny-clip]", "'tiny-clip' cannot answer yes or no.*or use clip_score"),
    ],
)
def test_an_unknown_metric_is_an_error(name, words):
    with pytest.raises(ValueError, match=words):
        make_metric(name)


@pytest.mark.parametrize(("name", "words"), [("fd", "fid or kid"), ("fid[tiny-clip]", "no backbone, got 'tiny-clip'")])
def test_only_the_inception_distance_is_called_fid(name, words):
    with pytest.raises(ValueError, match=words):
        make_metric(name, "there.safetensors")


def test_networks_are_found_by_name():
    assert isinstance(make_features("inception"), InceptionFeatures)
    assert make_features("pixels").tag == "pixels"
    assert make_features("small-pixels,side=3").tag == "pixels3"
    assert make_features("clip").tag == "clip"
    assert isinstance(make_features("openai/clip-vit-base-patch32"), ClipFeatures)


class _Scored(PromptMetric):
    def __init__(self, scorer: ImageScorer, rounds: int = 1) -> None:
        super().__init__()
        self.scorer, self.rounds = scorer, rounds

    names, method = property(lambda self: ("quality/scored",)), "none"

    def measure(self, samples):
        return [0.0]


class _Reader(PostcardScorer):
    def __init__(self, model: str, seed: int = 0) -> None:
        self.model, self.seed = model, seed


@pytest.fixture
def scored(monkeypatch):
    """A metric that takes a scorer, and a scorer with options."""
    load = plugins.load
    known = {"scored": _Scored, "reader": _Reader}
    monkeypatch.setattr(plugins, "registered", lambda group: {"metrics": ["scored"], "scorers": ["reader"]}[group])
    monkeypatch.setattr(plugins, "load", lambda group, name: known.get(name) or load(group, name))


@pytest.mark.usefixtures("scored")
def test_options_reach_the_metric_and_its_scorer():
    metric = make_metric("scored[reader,seed=3,rounds=2,model=some/name:8b]")
    assert (metric.scorer.model, metric.scorer.seed, metric.rounds) == ("some/name:8b", 3, 2)


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scored", r"requires a scorer in brackets, such as scored\[endpoint,model=NAME\].*gendiv list scorers"),
        ("scored[reader]", r"requires the option 'model'\. Pass it in brackets"),
        ("scored[reader,model=m,seed=x]", "seed must be a whole number, got 'x'"),
        ("scored[reader,model=m,speed=1]", "has no option 'speed'. Its options: rounds"),
    ],
)
def test_a_scorer_with_wrong_options_is_an_error(name, words):
    with pytest.raises(ValueError, match=words):
        make_metric(name)


@pytest.mark.parametrize("names", [["ssim", "ssim"], ["lpips", "lpips[alex]"], ["ssim", SSIM()]])
def test_a_metric_given_twice_is_an_error(names):
    with pytest.raises(ValueError, match=r"must not be repeated, but 2 of them compute diversity/\w+"):
        make_metrics(names)


def test_a_reference_that_no_metric_needs_is_an_error():
    with pytest.raises(ValueError, match=r"uses the reference 'there\.safetensors'"):
        make_metrics(["ssim"], "there.safetensors")
    assert len(make_metrics(["ssim", "kid"], "there.safetensors")) == 2
    assert make_metrics([]) == []


def test_every_metric_describes_itself():
    for name in plugins.registered("metrics"):
        metric = make_metric(f"{name}{INSIDE.get(name, '')}", "there.safetensors", 8)
        assert all([metric.title, metric.short, metric.needs]), name
        assert len({*metric.names}) == len(metric.names) > 0
        assert metric.describe().keys() <= {*metric.names}


@pytest.mark.parametrize(
    ("name", "number", "short", "higher_is_better"),
    [
        ("lpips", "diversity/lpips", "LPIPS", None),
        ("lpips[tiny]", "diversity/lpips[tiny]", "LPIPS [tiny]", None),
        ("fid", "quality/fid", "FID", False),
        ("clip_score[tiny-clip]", "quality/clip_score[tiny-clip]", "CLIP score [tiny-clip]", True),
        (
            "clip_iqa[tiny-clip,prompts=[happy,warm]]",
            "quality/clip_iqa[tiny-clip]/happy",
            "CLIP-IQA [tiny-clip]/happy",
            True,
        ),
        ("vendi[tiny,q=2]", "diversity/vendi[tiny,q=2]", "Vendi score [tiny,q=2]", None),
        ("postcard_truth", "postcards/coherence", "coherence", True),
    ],
)
def test_a_description_has_labels_for_reports(name, number, short, higher_is_better):
    words = make_metric(name, "there.safetensors").describe()[number]
    assert (words["short"], words["higher_is_better"]) == (short, higher_is_better)
    assert words["title"]


@pytest.mark.parametrize(
    ("tag", "options", "name"),
    [
        (None, {}, "quality/fid"),
        ("tiny", {}, "quality/fid[tiny]"),
        ("tiny", {"q": 2.0}, "quality/fid[tiny,q=2]"),
        ("tiny", {"q": None}, "quality/fid[tiny]"),
        (None, {"q": float("inf")}, "quality/fid[q=inf]"),
    ],
)
def test_a_value_is_named_by_its_tag_and_its_options(tag, options, name):
    assert metric_name("quality/fid", tag, **options) == name
