"""CLIP ViT-L/14 as Radford et al. (2021) trained it; the rest as configs/clip_vit_b32.py.

Command: python scripts/train.py --config=configs/clip_vit_l14.py --workdir=runs/clip \
  --config.data.data_dir=FOLDER --config.data.tokenizer=bpe_simple_vocab_16e6.txt.gz
"""

from ml_collections import ConfigDict

from configs import clip_vit_b32


def get_config() -> ConfigDict:
    config = clip_vit_b32.get_config()
    config.model.update(embed_dim=768)
    config.model.image_options = {"patch_size": 14, "width": 1024, "depth": 24, "num_heads": 16}
    config.model.text_options = {"width": 768, "depth": 12, "num_heads": 12}
    config.optim.update(learning_rate=4e-4)
    return config
