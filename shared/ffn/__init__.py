"""The FFN of every layer: the seam to it, and its computation on this machine."""
