"""Measurements that people can repeat; each module is one command."""
