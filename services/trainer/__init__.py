"""Training: the curriculum, packing, the loop, pretraining, fine-tuning and evaluation."""
