"""CLIP ViT-B/32 as Radford et al. (2021) trained it, tables 18 to 20, on your captioned pictures.

Data: a folder of images with captions (docs/text.md); the paper's 400 million pairs are not public.
  The tokenizer is CLIP's own, a file of the package open_clip_torch.
Hardware: the paper's run took 256 V100 for days; with mesh.fsdp and train.accumulate smaller
  machines see the same batch.
Command: python scripts/train.py --config=configs/clip_vit_b32.py --workdir=runs/clip \
  --config.data.data_dir=FOLDER --config.data.tokenizer=bpe_simple_vocab_16e6.txt.gz
"""

from ml_collections import ConfigDict

from configs import default

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def get_config() -> ConfigDict:
    config = default.get_config("clip")
    config.data.update(name="captions", image_size=(224, 224), channels=3, batch_size=32_768)
    config.data.update(tokenizer="bpe_simple_vocab_16e6.txt.gz", vocabulary=49_408, context=77)
    config.data.num_threads = 16
    config.model.update(embed_dim=512, image_mean=MEAN, image_std=STD, dtype="bfloat16")
    config.model.image_options = {"patch_size": 32, "width": 768, "depth": 12, "num_heads": 12}
    config.model.text_options = {"width": 512, "depth": 12, "num_heads": 8}
    config.objective.options = {"first_scale": 1 / 0.07, "largest_scale": 100.0}
    # Gains and biases do not decay; the other values are the ViTs' of table 18.
    config.optim.update(name="adamw", learning_rate=5e-4, weight_decay=0.2, warmup_steps=2000)
    config.optim.options = {"beta2": 0.98, "epsilon": 1e-6, "matrices_only": True}
    config.optim.update(decay="cosine", grad_clip=0.0)
    config.train.update(num_steps=390_625)  # 32 epochs of 400 million pairs
    config.train.update(checkpoint_every=2000, validate_every=5000, validate_examples=32_768)
    return config
