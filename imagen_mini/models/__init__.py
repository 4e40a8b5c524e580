"""Networks: the text-conditioned U-Net, its layers, its attention, and the controls that reach into
it. No diffusion mathematics. Read `layers`, `control`, `attention` and `unet`, in this order.
"""
