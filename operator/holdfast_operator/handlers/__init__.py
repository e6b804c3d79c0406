"""The asyncio shell: what is seen of the cluster and the rendezvous, and what is done to them."""
