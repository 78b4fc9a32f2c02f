"""gRPC for every service: the server's base, clients, errors on the wire, health, logs."""
