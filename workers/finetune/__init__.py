"""Real fine-tuning: a pretrained trunk and a new linear classifier, trained on a user's images."""
