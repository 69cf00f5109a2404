"""Hands: what runs where the VMs run. Obeys the ports, decides nothing, and is imported by `server` only."""
