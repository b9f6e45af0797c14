"""The dashboard. Like every client it knows the API and nothing behind it."""
