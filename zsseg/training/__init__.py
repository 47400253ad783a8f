"""How the proposals and the prompts of zsseg are learned."""
