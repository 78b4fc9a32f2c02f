"""The command line and the supervisor of the services on one machine."""
