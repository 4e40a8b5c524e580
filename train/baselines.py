"""Networks of other libraries, where our training and sampling expect our U-Net: to be held against
it on equal terms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.optimizers import make_optimizers


class DiffusersNet(nn.Module):
    """diffusers' UNet2DConditionModel where the training loop expects our U-Net: on pixels, three
    levels, attention to words on two.
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
        """Where the stage looks for its device."""
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
        return self.unet(x_t, 50 * log_snr, text.emb, encoder_attention_mask=text.mask).sample

    def read(self, text: TextEmbeddings) -> TextEmbeddings:
        return text  # it reads text anew in every step

    def enable_gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.unet.enable_gradient_checkpointing()


NETWORKS = ("ours", "diffusers")


def build_for_training(
    network: str, stage_config: StageConfig, config: TrainConfig, device: torch.device
) -> tuple[DiffusionStage, dict[str, torch.optim.Optimizer]]:
    """A fresh stage and its optimizers; with network "diffusers", theirs and AdamW instead of ours."""
    torch.manual_seed(config.seed)
    stage = DiffusionStage(stage_config)
    if network == "diffusers":
        stage.net = DiffusersNet(stage.config.unet.text_width)
    stage.to(
        device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format
    )
    if network == "diffusers":
        return stage, {
            "adamw": torch.optim.AdamW(
                stage.parameters(), config.learning_rate, config.betas, fused=True
            )
        }
    return stage, make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
