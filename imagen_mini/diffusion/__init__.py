"""The mathematics of diffusion: schedules, timesteps, the Gaussian, losses, guidance, samplers. No
network.
"""
