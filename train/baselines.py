"""Networks of other libraries in the place of our U-Net, to compare with it on equal terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.utils.devices import channels_last_on_cpu


class DiffusersNet(nn.Module):
    """diffusers' UNet2DConditionModel with the interface of our U-Net.

    It works on pixels, with three levels and attention to words on two of them.

    Args:
        text_width: The width of the text embeddings.
    """

    def __init__(self, text_width: int):
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=3,
            out_channels=3,
            block_out_channels=(64, 128, 192),
            layers_per_block=1,
            cross_attention_dim=text_width,
            attention_head_dim=(2, 4, 6),
            norm_num_groups=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )

    @property
    def out(self) -> nn.Module:
        """The last layer, where the stage looks up its device."""
        return self.unet.conv_out

    def forward(
        self,
        x_t: Tensor,
        log_snr: Tensor,
        text: TextEmbeddings,
        low_res=None,
        aug_level=None,
        control=None,
        use_pooled=None,
    ) -> Tensor:
        """Predict from noisy images [b, 3, h, w]; what this network does not have is ignored.

        log_snr [b] takes the place of its timestep, times 50.
        """
        return self.unet(x_t, 50 * log_snr, text.emb, encoder_attention_mask=text.mask).sample

    def prepare_text(self, text: TextEmbeddings) -> TextEmbeddings:
        """Return the text unchanged: this network projects it in every step."""
        return text

    def enable_gradient_checkpointing(self, on: bool) -> None:
        """Recompute blocks in the backward pass, if on."""
        if on:
            self.unet.enable_gradient_checkpointing()


NETWORKS = ("ours", "diffusers")


def build_for_training(
    network: str, stage_config: StageConfig, config: TrainConfig, device: torch.device
) -> tuple[DiffusionStage, dict[str, torch.optim.Optimizer]]:
    """Build a stage and its optimizers, with weights that are a function of the seed.

    Args:
        network: One of NETWORKS. "diffusers" has its network and AdamW instead of ours.
        stage_config: The stage.
        config: The training.
        device: Where to train.
    """
    torch.manual_seed(config.seed)
    stage = DiffusionStage(stage_config)
    if network == "diffusers":
        stage.net = DiffusersNet(stage.config.unet.text_width)
    stage.to(device, memory_format=channels_last_on_cpu(device))
    if network == "diffusers":
        return stage, {
            "adamw": torch.optim.AdamW(
                stage.parameters(), config.learning_rate, config.betas, fused=True
            )
        }
    return stage, make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
