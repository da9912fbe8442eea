"""The zoo's models by name, with lively random weights and example inputs.

- `tv:NAME`: a model of torchvision. Detectors are backbone and heads only: the rest is post-processing.
- `timm:NAME`: a model of timm.
- `FILE.py:FUNCTION`: what the function returns, a model and the tuple of its example inputs.

    python -m benchmarks.zoo_models     prints the names of the whole zoo
"""

import inspect
import runpy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SEED = 0
LARGE = 100_000_000  # parameters from which the example is a batch of one
MANY = 3 * 16 * 112 * 112  # values of one sample above which it is, too
SIDE = {"inception_v3": 299, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
VIDEO = {"r3d_18": 112, "mc3_18": 112, "r2plus1d_18": 112}  # the others take 224
BY_DOMAIN = {"detection": 320, "segmentation": 256, "optical_flow": 128}

# One small model of every family (module) of timm 1.0.31, two where another is smaller by parameters.
TIMM = """
    beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_zepto_rms cpubone_nano
    crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224
    densenet121 dla46_c dla46x_c dpn48b edgenext_x_small edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
    fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 gmlp_ti16_224 halonet_h1
    hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
    inception_v3 inception_v4 lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s lowformer_b0
    mnasnet_050 mobilenetv3_small_050 mobilenetv5_base mobilevit_xs mobilevit_xxs mvitv2_tiny
    naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small pit_ti_224 pnasnet5large
    poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50
    resnest14d resnetv2_18 rexnet_100 sam2_hiera_tiny samvit_base_patch16_224 selecsls42 sequencer2d_s shvit_s1
    skresnet18 starnet_s050 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
    swinv2_tiny_window8_256 test_byobnet test_coatnet test_convnext test_efficientnet test_mambaout test_nfnet
    test_resnet test_vit test_vit_relpos tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small
    vgg11 visformer_tiny vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
    xception41p xcit_nano_12_p8_224
"""

Model = tuple[nn.Module, tuple[Tensor, ...]]


class Detector(nn.Module):
    """A detector's trunk and heads: images to the tensors that the post-processing reads."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Any:
        """Take images of shape (N, 3, H, W); return what the head returns."""
        features = self.backbone(images)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


def names() -> Iterator[str]:
    """Every float model of torchvision, and those of TIMM."""
    from torchvision.models import list_models

    yield from (f"tv:{name}" for name in list_models() if not name.startswith("quantized_"))
    yield from (f"timm:{name}" for name in TIMM.split())


def build(name: str) -> Model:
    """Return a model in evaluation mode, the same in every process, and its example inputs.

    The batch is two, for batch norm over one position in a training step, or one where that takes much memory.
    """
    torch.manual_seed(SEED)
    source, _, rest = name.rpartition(":")
    if source.endswith(".py"):
        model, inputs = runpy.run_path(source)[rest]()
        return model.eval(), inputs
    model, shapes = {"tv": _torchvision, "timm": _timm}[source](rest)
    liven(model)
    large = sum(p.numel() for p in model.parameters()) > LARGE or max(s.numel() for s in shapes) > MANY
    return model.eval(), tuple(torch.randn(1 if large else 2, *shape) for shape in shapes)


def liven(model: nn.Module) -> None:
    """Redraw what starts as zero or one, or next to it: a pruned model must not be right by accident.

    Biases, scales and running means become 0 ± 0.2 or 1 ± 0.2, running variances 0.5 to 1.5, weights that are
    all zero 0 ± 0.02. Layer scales of 1e-6 and residual branches that start closed are among them.
    """
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.numel() == max(tensor.shape, default=1):
                tensor.normal_(0 if "bias" in name.rpartition(".")[2] else 1, 0.2)
            elif not tensor.any():
                tensor.normal_(0, 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def _torchvision(name: str) -> tuple[nn.Module, list[torch.Size]]:
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    domain = builder.__module__.split(".")[2]
    wanted = {"weights": None, "weights_backbone": None, "aux_loss": True, "init_weights": False}
    model = builder(**{k: v for k, v in wanted.items() if k in inspect.signature(builder).parameters})
    side = SIDE.get(name, BY_DOMAIN.get(domain, 224))
    if domain == "detection":
        head = model.rpn.head if hasattr(model, "rpn") else model.head
        model = Detector(model.backbone, head)
    if domain == "video":
        side = VIDEO.get(name, 224)
        return model, [torch.Size((3, 16, side, side))]
    return model, [torch.Size((3, side, side))] * (2 if domain == "optical_flow" else 1)


def _timm(name: str) -> tuple[nn.Module, list[torch.Size]]:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, [torch.Size(model.pretrained_cfg["input_size"])]


if __name__ == "__main__":
    print(*names(), sep="\n")
