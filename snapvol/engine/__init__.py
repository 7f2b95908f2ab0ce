"""Directory trees into and out of a repository in restic's format."""
