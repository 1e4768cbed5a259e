"""One network with or without layer synchronization: its Lightning module, and what training it needs."""
