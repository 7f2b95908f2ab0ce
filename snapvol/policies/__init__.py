"""Policies: when to snapshot and back up, and what to keep. Pure decisions over what they are told, without a clock."""
