"""The gateway: the conversation API in front of vision and attention."""
