"""Every performance claim as one command: ./step3 bench NAME."""
