"""Parts of the dashboard's screens."""
