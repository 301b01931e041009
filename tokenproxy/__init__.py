"""tokenproxy: requests go in without a credential and come out with a live one."""

__version__ = "0.1.0"
