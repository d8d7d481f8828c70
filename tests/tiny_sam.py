"""SAM and SAM 2 with random weights and few of them."""

from pathlib import Path

import torch
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel


def write_tiny_sam(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SamModel(
            SamConfig(
                vision_config={
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "mlp_dim": 32,
                    "output_channels": 16,
                    "image_size": 64,
                    "patch_size": 16,
                    "global_attn_indexes": [0],
                    "num_pos_feats": 8,
                },
                prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
                mask_decoder_config={
                    "hidden_size": 16,
                    "mlp_dim": 32,
                    "num_attention_heads": 2,
                    "num_hidden_layers": 1,
                    "iou_head_hidden_dim": 16,
                },
            )
        ).save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_sam2(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Sam2Model(
            Sam2Config(
                vision_config={
                    "backbone_config": {
                        "model_type": "sam2_hiera_det_model",
                        "hidden_size": 8,
                        "image_size": [128, 128],
                        "blocks_per_stage": [1, 2, 1, 1],
                        "embed_dim_per_stage": [8, 16, 32, 64],
                        "num_attention_heads_per_stage": [1, 1, 2, 2],
                        "global_attention_blocks": [2],
                    },
                    "backbone_channel_list": [64, 32, 16, 8],
                    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
                    "fpn_hidden_size": 32,
                },
                prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16},
                mask_decoder_config={
                    "hidden_size": 32,
                    "mlp_dim": 32,
                    "num_attention_heads": 2,
                    "iou_head_hidden_dim": 16,
                },
            )
        ).save_pretrained(folder, safe_serialization=True)
    return folder
