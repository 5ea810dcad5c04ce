"""A random DINOv2 of toy size, in the layout of transformers: shorter side to 32, crop of 28, patches of 14."""

import torch


def write_dinov2(folder):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Dinov2Model(Dinov2Config(**sizes))
        for tensor in model.parameters():
            if tensor.ndim > 1:
                torch.nn.init.normal_(tensor, std=1.5 / tensor[0].numel() ** 0.5)
        model.save_pretrained(folder)
    crop, mean, std = {"height": 28, "width": 28}, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop, image_mean=mean, image_std=std).save_pretrained(
        folder
    )
    return str(folder)
