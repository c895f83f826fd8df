"""Drawn shapes, enlarged from 16x16 to 32x32: the second model of a cascade (Ho et al. 2022).

Data: `ddpm_jax.data.shapes`, drawn without end; what is enlarged is made of the same images.
Hardware: 2 CPU cores, 16 min as measured beside other work.
Expected: behind configs/shapes.py, 0.795 of 200 samples at 32x32 show all nine attributes, of whose
  16x16 images 0.925 do; means of 2x2 pixels are 3.8 grey levels from the image that was enlarged.
  On real images it is 4.0 grey levels off and bilinear enlargement 3.1: it sharpens, and errs.
Command: python scripts/train.py --config=configs/shapes_upsampler.py --workdir=runs/upsampler
Behind any model of shapes at 16x16 (docs/sampling.md has the command of one):
  python scripts/sample.py --workdir=runs/shapes --upsampler_workdir=runs/upsampler --out=large.png
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="shapes", image_size=(32, 32), channels=3, batch_size=32)
    config.model.update(name="dit", channels=128, num_blocks=4, num_heads=4, patch_size=4)
    config.model.conditions = ("low_resolution",)
    # v: where x_t is all noise, it asks for x_0, of which the small image says most.
    config.diffusion.update(schedule="cosine", prediction="v", low_resolution=16, augmentation=0.3)
    config.optim.update(learning_rate=1e-3, warmup_steps=200)
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=4000,
        checkpoint_every=1000,
        sample_every=1000,
        validate_every=1000,
        validate_examples=512,
    )
    config.sample.update(sampler="ddim", num_steps=25, batch_size=64, augmentation=0.05)
    return config
