"""What a deployment needs and costs, from the model's dimensions and the accelerator's data."""
