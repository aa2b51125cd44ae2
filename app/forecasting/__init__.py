"""How long fine-tuning will take, from one pass over a few images: arrays in, a loss curve out.

The network is linearised around its pretrained weights and its training simulated in the space of its outputs. Sources:
arXiv:2008.12478 (Zancato et al., 2020) for the idea; what differs from it is said where it is done.
"""
