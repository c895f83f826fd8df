"""CLIP RN50 with the settings of Radford et al. (2021), tables 18 and 19, and group norms.

The paper's batch norms make an image's embedding a matter of its batch; with group norms a batch in
parts or on several devices is the batch. The rest as configs/clip_vit_b32.py.

Command: python scripts/train.py --config=configs/clip_rn50.py --workdir=runs/clip \
  --config.data.data_dir=FOLDER --config.data.tokenizer=bpe_simple_vocab_16e6.txt.gz
"""

from ml_collections import ConfigDict

from configs import clip_vit_b32


def get_config() -> ConfigDict:
    config = clip_vit_b32.get_config()
    config.model.update(image="resnet", embed_dim=1024)
    config.model.image_options = {"layers": (3, 4, 6, 3), "width": 64, "num_heads": 32}
    config.optim.options = {"beta2": 0.999, "epsilon": 1e-8, "matrices_only": True}
    return config
