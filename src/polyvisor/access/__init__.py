"""Who asks and what they may: credentials to principals, grants, quotas. Enforced in `engine` only."""
