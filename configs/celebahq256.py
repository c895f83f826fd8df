"""DDPM on CelebA-HQ 256x256, the experiment of Ho et al. (2020): 113,673,219 parameters.

Paper: Denoising Diffusion Probabilistic Models, appendix B.
Data: TFDS celeb_a_hq/256, prepared once from files that you download by hand (TFDS says which):
  python scripts/prepare_data.py --dataset=celeb_a_hq/256 --data_dir=DIR
Hardware: the paper's TPU v3-8 ran 2.2 steps/s, so about 63 hours for 500,000 steps. --dry_run
  counts some 180 GB of workspace for the batch of 64 on one device: spread it over eight or more.
Expected: the paper shows samples and gives no FID for this data set; not rerun here.
Command: python scripts/train.py --config=configs/celebahq256.py --workdir=runs/celebahq256 \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(
        name="celeb_a_hq/256",
        image_size=(256, 256),
        batch_size=64,
        flip=True,
        # TFDS has no other split; the last 1,000 are held out.
        options={"train_split": "train[:29000]", "validation_split": "train[29000:]"},
    )
    config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.diffusion.variance = "fixed_small"
    config.optim.learning_rate = 2e-5
    config.train.num_steps = 500_000
    config.train.validate_examples = 512
    config.sample.update(batch_size=16, grid_size=16)
    return config
