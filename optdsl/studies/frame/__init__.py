"""What every study shares: runs, their keys, the store of results, and what carries runs out."""
