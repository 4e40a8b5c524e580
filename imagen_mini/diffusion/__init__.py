"""The mathematics of diffusion, without a network.

Read in this order: `schedules` (how much noise at which time), `gaussian` (the forward process and
what a network predicts), `losses`, `guidance` (from a network to a denoiser), `timesteps` and
`samplers` (from noise to an image).
"""
