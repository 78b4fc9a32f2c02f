"""The data plane between attention and FFN processes (StepMesh's role).

Read layout and header for what is in memory, channel for the contract, link and mapped for how it
moves, remote_ffn and ffn_server for the two users, rendezvous for how they meet.
"""
