"""snapvol: Docker volumes with snapshots, and backups that outlive the tool that made them."""

__version__ = "0.1.0"
