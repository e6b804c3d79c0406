"""The asyncio shell of one node."""
