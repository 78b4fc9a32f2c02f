"""The processes of step3, one package each: python -m services.<name>."""

import os

# gRPC's C core writes records of its own shape to stderr; what matters in them is raised as well.
# It reads the variable when it is imported, which is after this.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
