"""The long proofs: what the cache engine claims, tried thousands of times (docs/campaign.md)."""
