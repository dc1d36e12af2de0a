# %% [markdown]
# # Compress a model in memory
#
# The embedded DDPM (grey, 16x16) is pruned to 57 % of its MACs, trained with a loop of one's own, and compared with the
# dense model. Run it as a script (`python docs/examples/compress_in_memory.py`) or open it as a notebook
# (VS Code, or `jupytext --to notebook`). It takes less than a minute on two processor cores.

# %%
from copy import deepcopy

import torch
from diffusers import DDPMPipeline

import toolkit
from toolkit.data.open import open_images
from toolkit.models.folder import DEFAULT_MODEL

pipeline = DDPMPipeline.from_pretrained(DEFAULT_MODEL)
images = torch.from_numpy(open_images(None, (1, 16, 16)).read(range(2000)))  # float32 (N, 1, 16, 16) in [-1, 1]

# %% [markdown]
# What would come of it: no weights and no data are read.

# %%
plan = toolkit.plan(pipeline.unet, target="macs=0.57")
plan  # a notebook shows the table

# %%
small = toolkit.prune(pipeline, target="macs=0.57", data=images, value_range=(-1, 1), score_timesteps=32)
print(f"{small.plan.params_fraction:.0%} of the parameters, {small.plan.macs_fraction:.0%} of the MACs are left")

# %% [markdown]
# Recovery: any training loop works, since the result is a stock module. This one is shorter than that of
# `toolkit.compress`, which also has the dense model as teacher, averages the weights and can be interrupted.

# %%
STEPS, BATCH = 100, 64
generator = torch.Generator().manual_seed(0)


def loss(model: torch.nn.Module) -> torch.Tensor:
    """Mean squared error of the predicted noise on a random batch."""
    clean = images[torch.randint(len(images), (BATCH,), generator=generator)]
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = torch.randint(1000, (BATCH,), generator=generator)
    noisy = pipeline.scheduler.add_noise(clean, noise, timesteps)
    return torch.nn.functional.mse_loss(model(noisy, timesteps).sample, noise)


def measured(model: torch.nn.Module) -> float:
    generator.manual_seed(1)
    with torch.no_grad():
        return sum(loss(model).item() for _ in range(10)) / 10


before = measured(small)
trained = deepcopy(small).train()
optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-4)
generator.manual_seed(2)
for _ in range(STEPS):
    optimizer.zero_grad()
    loss(trained).backward()
    optimizer.step()
trained.eval()
print(f"loss: dense {measured(pipeline.unet):.4f}, pruned {before:.4f}, after {STEPS} steps {measured(trained):.4f}")

# %% [markdown]
# The result goes wherever the dense model went.

# %%
compressed = DDPMPipeline(unet=trained, scheduler=pipeline.scheduler)
samples = compressed(batch_size=4, num_inference_steps=20, generator=torch.Generator().manual_seed(0)).images
print(f"{len(samples)} samples of {samples[0].size}")
