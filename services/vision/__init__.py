"""The vision service: encoded images in, features for the language model out."""
