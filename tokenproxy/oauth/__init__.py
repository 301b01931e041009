"""Faces providers: performs grants over HTTP, and is the one door through which tokens change."""
