"""Drawn shapes, one or two an image, told in words by ten templates, read by a CLIP's tower.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end; three pairs of colour and shape never are,
  and two templates of captions are never read in training. The tower of texts is that of
  configs/shapes_clip.py, in runs/shapes_clip, as it is; its tokenizer is read there too.
Hardware: 2 CPU cores; 62 min of CPU time, 68 min on one of them.
Expected, from scripts/evaluate.py: at guidance_scale 3 0.68 of the samples of one object show all
  that their caption tells, 0.11 of those of two, docs/results.md.
Command: python scripts/train.py --config=configs/shapes_text.py --workdir=runs/shapes_text
Then: python scripts/sample.py --workdir=runs/shapes_text --num_samples=16 --out=drawn.npz
  --prompt="a large red circle above a small blue square"

Source: Nichol et al. 2021 (GLIDE); the network is Peebles & Xie's (2023).
"""

from ml_collections import ConfigDict

from configs import shapes, shapes_clip


def get_config() -> ConfigDict:
    config, clip = shapes.get_config(), shapes_clip.get_config()
    config.data.options.captions = "varied"
    config.data.update(tokenizer="runs/shapes_clip/tokenizer.json")
    config.data.update(vocabulary=clip.data.vocabulary, context=clip.data.context)
    config.model.update(conditions=("text",), text_tower="clip")
    config.model.update(text_channels=128, text_blocks=2, text_heads=4)
    # Of a few large, even surfaces all is decided at high noise, where a cosine hardly ever is.
    config.diffusion.update(schedule="flow", prediction="flow", schedule_options={"shift": 5.0})
    config.diffusion.update(condition_dropout=(0.2,), joint_dropout=0.0)
    config.optim.update(decay="cosine", frozen=("text/*",))
    config.train.update(init_from="runs/shapes_clip", init_strict=False)
    return config
