"""What this router saw of a rollout's versions: counted a batch at a time, and sent to the judge."""
