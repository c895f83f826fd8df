"""CLIP ViT-B/16 as Radford et al. (2021) trained it; the rest as configs/clip_vit_b32.py.

Command: python scripts/train.py --config=configs/clip_vit_b16.py --workdir=runs/clip \
  --config.data.data_dir=FOLDER --config.data.tokenizer=bpe_simple_vocab_16e6.txt.gz
"""

from ml_collections import ConfigDict

from configs import clip_vit_b32


def get_config() -> ConfigDict:
    config = clip_vit_b32.get_config()
    config.model.image_options.patch_size = 16
    return config
