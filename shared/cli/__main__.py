"""`python -m shared.cli`: what the launcher hands over to."""

from shared.cli.app import main

main()
